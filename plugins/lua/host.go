package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	pluginv1 "github.com/rotunda-pam/rotunda/proto/rotunda/plugin/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

// onHost asks the agent for something of its own host, and gives its answer with the bytes
// that came with it. The agent checks what it is asked for: by the manifest, and by the local
// policy of the host.
func (a *args) onHost(limit time.Duration, r pluginv1.LocalRequest, body []byte) (pluginv1.LocalAnswer, []byte, *sdk.Error) {
	if a.p.dry != nil {
		a.p.dry.onHost(a, r)
	}
	ctx, cancel := a.within(limit)
	defer cancel()
	conn, err := a.host.Dialer.DialContext(ctx, pluginv1.LocalNetwork, pluginv1.LocalAddress)
	if err != nil {
		e := asError(err, sdk.ClassUnreachable, "dial")
		return pluginv1.LocalAnswer{}, nil, &sdk.Error{Class: e.Class, Reason: e.Reason, NotSent: true, Err: e.Err}
	}
	defer conn.Close()
	// Where the deadline comes first, the agent is told by the connection's end.
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	err = pluginv1.WriteLocal(conn, r, body)
	if errors.Is(err, pluginv1.ErrLocal) {
		a.wrong("%v", err)
	}
	var answer pluginv1.LocalAnswer
	var out []byte
	if err == nil {
		out, err = pluginv1.ReadLocal(conn, &answer)
	}
	switch {
	case err != nil && ctx.Err() != nil:
		return answer, nil, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "deadline", Err: errors.New("the agent did not answer in time")}
	case err != nil:
		return answer, nil, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "local.lost", Err: errors.New("the agent gave no answer")}
	case answer.Error != nil:
		e := answer.Error
		return answer, nil, &sdk.Error{Class: classOr(e.Class), Reason: e.Reason, NotSent: e.NotSent, Err: errors.New(e.Text)}
	}
	return answer, out, nil
}

// seen refuses what others on the agent's host could read: a text that a secret is in, as
// reveal gives one.
func (a *args) seen(text string) error {
	if a.hidden.Text(text) != text {
		return fmt.Errorf("it holds a secret, which everybody on that host could read: give it as stdin, or write it into a file")
	}
	return nil
}
