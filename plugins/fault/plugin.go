package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/rotunda-pam/rotunda/sdk"
)

// rotator is one of the three plugins whose agent makes the password.
type rotator struct {
	keep bool // the former password works on

	mu   sync.Mutex
	seen map[string]string // by account: the newest password that was set, for faults that remember

	left   atomic.Pointer[unfinished]
	closed atomic.Int64 // how many sessions were
	kept   []net.Conn   // that nobody closes
}

// For the fault that mixes accounts up: the newest name, and where a call waits for another.
var (
	newest  atomic.Pointer[string]
	meeting = make(chan struct{})
)

func mixedUp(name string) string {
	newest.Store(&name)
	select {
	case meeting <- struct{}{}:
	case <-meeting:
	case <-time.After(time.Second): // it is alone
	}
	return *newest.Load()
}

// unfinished is a change that was broken off.
type unfinished struct{ account, password string }

func (p *rotator) remember(account, password string) (again bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.seen == nil {
		p.seen = map[string]string{}
	}
	again = p.seen[account] == password
	p.seen[account] = password
	return again
}

func (p *rotator) remembers(account, password string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen[account] == password
}

// asked are the accounts that a login was asked of, for the fault that remembers them.
func (p *rotator) asked() (all []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key := range p.seen {
		if name, ok := strings.CutPrefix(key, "asked "); ok {
			all = append(all, name)
		}
	}
	return all
}

// keepOne makes a connection that nobody closes.
func (p *rotator) keepOne(ctx context.Context, s service) {
	c, err := s.host.Dialer.DialContext(ctx, "tcp", s.resource.Address)
	if err != nil {
		return // the line is down: then there is nothing to keep
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.kept = append(p.kept, c)
}

// knows says whether a password of the account was set.
func (p *rotator) knows(account string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen[account] != ""
}

// session is an administrator who is logged in.
type session struct {
	*rotator
	service
	admin  sdk.Account
	secret sdk.Secret
	before int64 // sessions that were closed when it was opened
	self   bool  // it changes the administrator's own
}

func (p *rotator) Open(ctx context.Context, r sdk.OpenRequest) (sdk.Session, error) {
	s, err := p.open(ctx, r)
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (p *rotator) open(ctx context.Context, r sdk.OpenRequest) (*session, error) {
	svc, err := newService(r.Host, r.Resource)
	if err != nil {
		return nil, err
	}
	s := &session{p, svc, r.AdminAs, r.Admin.Secret, p.closed.Load(), r.Self}
	if s.self && s.fault == selfNotBuilt {
		return nil, &sdk.Error{Class: sdk.ClassUnsupported, Reason: "self", NotSent: true}
	}
	if s.fault == openDoesNotLook {
		return s, nil
	}
	status, err := s.login(ctx, r.AdminAs.Name, r.Admin.Secret)
	switch {
	case err != nil && (s.fault == silenceIsRefusal || s.fault == namesNoIdentity), err == nil && status == http.StatusUnauthorized:
		return nil, &sdk.Error{Class: sdk.ClassAuth, Reason: "admin.refused", NotSent: true, Err: err}
	case err != nil:
		known := &sdk.Error{Class: sdk.ClassUnreachable, Reason: "http"}
		errors.As(err, &known) // of the TLS proof
		return nil, &sdk.Error{Class: known.Class, Reason: known.Reason, NotSent: true, Err: err}
	case status != http.StatusOK:
		return nil, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "service.status", NotSent: true}
	}
	switch s.fault {
	case keepsSessions:
		p.keepOne(ctx, svc)
	case openChanges:
		_, err = s.set(ctx, r.AdminAs.Name, "set while opening", false)
	}
	if left := p.left.Swap(nil); left != nil {
		_, err = s.set(ctx, left.account, left.password, p.keep)
	}
	return s, err
}

func (s *session) Close() error {
	s.closed.Add(1)
	return nil
}

func (s *session) Apply(ctx context.Context, a sdk.ApplyRequest) (sdk.ApplyResponse, error) {
	unchanged := func(class sdk.Class, reason string) (sdk.ApplyResponse, error) {
		return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: class, Reason: reason}, nil
	}
	password, name := a.Candidate.Secret.ExposeString(), a.Account.Name
	if !utf8.ValidString(password) { // JSON would carry another one
		return unchanged(sdk.ClassPolicy, "policy.charset")
	}
	switch s.fault {
	case closesAll:
		if s.closed.Load() != s.before {
			return sdk.ApplyResponse{}, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "session.over", NotSent: true}
		}
	case mixesAccounts:
		name = mixedUp(name)
	case dropsCharacters:
		password = strings.ReplaceAll(password, "<", "")
	case trimsSecrets:
		password = strings.TrimSpace(password)
	case writesSecrets:
		if err := os.WriteFile(filepath.Join(os.TempDir(), "last"), []byte(password), 0o600); err != nil {
			return sdk.ApplyResponse{}, err
		}
	case printsSecrets:
		// No scrubber knows every way to write one.
		fmt.Println("new password: " + strings.Join(strings.Split(password, ""), " "))
	case changesAll:
		for _, other := range s.asked() {
			if _, err := s.set(ctx, other, password, s.keep); err != nil {
				return s.unanswered(ctx, err)
			}
		}
	case needsOld:
		if status, err := s.login(ctx, name, a.Current.Secret); err == nil && status == http.StatusUnauthorized {
			return unchanged(sdk.ClassConflict, "account.changed")
		}
	case firstComeOnly:
		if status, err := s.login(ctx, name, a.Candidate.Secret); err == nil && status == http.StatusOK {
			return unchanged(sdk.ClassPolicy, "policy.history")
		}
	}
	if s.remember(name, password) && s.fault == onceOnly {
		return unchanged(sdk.ClassPolicy, "policy.history")
	}
	status, err := s.set(ctx, name, password, s.keep && s.fault != endsCurrent || s.fault == keepsOld)
	if err != nil {
		if s.fault == finishesLater {
			s.left.Store(&unfinished{name, password})
		}
		return s.unanswered(ctx, err)
	}
	switch status {
	case http.StatusNoContent:
		return sdk.ApplyResponse{Outcome: sdk.Changed}, nil
	case http.StatusNotFound:
		switch s.fault {
		case missingIsPolicy:
			return unchanged(sdk.ClassPolicy, "account.missing")
		case makesTheMissing:
			if _, err := s.call(ctx, http.MethodPost, "/users/"+url.PathEscape(name), s.admin.Name, s.secret, map[string]any{"password": password}); err != nil {
				return s.unanswered(ctx, err)
			}
		case reasonIsText:
			return unchanged(sdk.ClassNotFound, "No such user!")
		}
		return unchanged(sdk.ClassNotFound, "account.missing")
	case http.StatusForbidden:
		if s.fault == noRightsIsPolicy {
			return unchanged(sdk.ClassPolicy, "admin.rights")
		}
		return unchanged(sdk.ClassPermission, "admin.rights")
	case http.StatusUnauthorized: // its own password was changed meanwhile
		if s.self && s.fault != losesItself {
			switch status, err := s.login(ctx, name, a.Candidate.Secret); {
			case err != nil:
				return s.unanswered(ctx, err)
			case status == http.StatusOK:
				return sdk.ApplyResponse{Outcome: sdk.Changed}, nil
			}
		}
		return unchanged(sdk.ClassAuth, "admin.refused")
	case http.StatusUnprocessableEntity:
		if s.fault == policyIsUnknown {
			return sdk.ApplyResponse{}, nil
		}
		return unchanged(sdk.ClassPolicy, "policy.refused")
	}
	return sdk.ApplyResponse{}, nil // not known
}

// unanswered is a change of which no answer came.
func (s *session) unanswered(ctx context.Context, err error) (sdk.ApplyResponse, error) {
	switch {
	case s.fault == lostIsUnchanged, s.fault == lateIsUnchanged:
		if s.fault == lateIsUnchanged {
			<-ctx.Done() // the agent may have cut the line a moment before
		}
		return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: sdk.ClassUnreachable, Reason: "http"}, nil
	case s.fault == lostIsChanged:
		return sdk.ApplyResponse{Outcome: sdk.Changed}, nil
	case s.fault == deafToTheDeadline:
		select {} // the agent kills whoever stays deaf
	}
	return sdk.ApplyResponse{}, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "http", NotSent: s.fault == neverSent, Err: err}
}

func (s *session) Retire(ctx context.Context, r sdk.RetireRequest) (sdk.RetireResponse, error) {
	old, name := r.Old.Secret.ExposeString(), r.Account.Name
	if s.remember("retired "+name, old) && s.fault == retireOnce {
		return sdk.RetireResponse{Outcome: sdk.Unchanged}, nil
	}
	status, err := s.end(ctx, name, old)
	switch {
	case err == nil && s.fault == endsEverything:
		status, err = s.end(ctx, name, r.Keep.Secret.ExposeString())
	case err == nil && s.fault == endsAllButKeep:
		status, err = s.set(ctx, name, r.Keep.Secret.ExposeString(), false)
	}
	switch {
	case err != nil:
		return sdk.RetireResponse{}, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "http", Err: err}
	case status == http.StatusNoContent, status == http.StatusNotFound:
		return sdk.RetireResponse{Outcome: sdk.Changed}, nil
	}
	return sdk.RetireResponse{}, nil
}

func (s *session) Readback(ctx context.Context, a sdk.ApplyRequest) (sdk.VerifyResponse, error) {
	if s.fault == readsWhatItLikes {
		return sdk.VerifyResponse{Verdict: sdk.Accepted}, nil
	}
	return s.judge(ctx, a.Account.Name, a.Candidate.Secret)
}

func (p *rotator) Verify(ctx context.Context, v sdk.VerifyRequest) (sdk.VerifyResponse, error) {
	svc, err := newService(v.Host, v.Resource)
	if err != nil {
		return sdk.VerifyResponse{}, err
	}
	switch svc.fault {
	case changesAll:
		p.remember("asked "+v.Account.Name, "yes")
	case neverAsks:
		return sdk.VerifyResponse{Verdict: sdk.Accepted}, nil
	case believesItself:
		if p.remembers(v.Account.Name, v.Credential.Secret.ExposeString()) {
			return sdk.VerifyResponse{Verdict: sdk.Accepted}, nil
		}
	case livingIsRejected:
		if out, err := svc.judge(ctx, v.Account.Name, v.Credential.Secret); err != nil || out.Verdict != sdk.Accepted || p.remembers(v.Account.Name, v.Credential.Secret.ExposeString()) {
			return out, err
		}
		if p.knows(v.Account.Name) {
			return sdk.VerifyResponse{Verdict: sdk.Rejected, Reason: "bad_secret"}, nil
		}
	case verifiesAnyKey:
		svc.fault = trustsAnyKey
	case keepsConnections:
		p.keepOne(ctx, svc)
	case asBefore:
		out, err := svc.judge(ctx, v.Account.Name, v.Credential.Secret)
		login, secret := "login "+v.Account.Name, v.Credential.Secret.ExposeString()
		switch {
		case out.Verdict == sdk.Accepted:
			p.remember(login, secret)
		case out.Reason == "unreachable" && p.remembers(login, secret):
			out = sdk.VerifyResponse{Verdict: sdk.Accepted}
		}
		return out, err
	case leaks:
		kept := make([]byte, 4<<10)
		go func() {
			<-make(chan struct{})
			clear(kept)
		}()
	}
	return svc.judge(ctx, v.Account.Name, v.Credential.Secret)
}

// service is the target.
type service struct {
	host     sdk.Host
	resource sdk.Resource
	fault    fault
}

func newService(h sdk.Host, r sdk.Resource) (service, error) {
	var c Config
	err := sdk.DecodeConfig(r, &c)
	return service{h, r, fault(c.Fault)}, err
}

// judge tells a secret that was found wrong from everything else.
func (s service) judge(ctx context.Context, name string, secret sdk.Secret) (out sdk.VerifyResponse, err error) {
	status, err := s.login(ctx, name, secret)
	if err == nil && status == http.StatusUnauthorized && s.fault == triesTwice {
		status, err = s.login(ctx, name, secret)
	}
	switch {
	case err == nil && status == http.StatusOK:
		out.Verdict = sdk.Accepted
	case err == nil && status == http.StatusUnauthorized,
		err == nil && status == http.StatusLocked && s.fault == lockedIsRejected,
		s.fault == allElseIsRejected:
		out.Verdict, out.Reason = sdk.Rejected, "bad_secret"
	case err == nil && status == http.StatusLocked:
		out.Reason = "locked"
	default:
		out.Reason = "unreachable"
	}
	return out, nil
}

func (s service) login(ctx context.Context, name string, secret sdk.Secret) (int, error) {
	return s.call(ctx, http.MethodGet, "/me", name, secret, nil)
}

func (s *session) set(ctx context.Context, name, password string, keep bool) (int, error) {
	return s.asAdmin(ctx, http.MethodPut, name, map[string]any{"password": password, "keep": keep})
}

func (s *session) end(ctx context.Context, name, password string) (int, error) {
	return s.asAdmin(ctx, http.MethodDelete, name, map[string]any{"password": password})
}

func (s *session) asAdmin(ctx context.Context, method, name string, body any) (int, error) {
	if s.fault != pastesNames {
		name = url.PathEscape(name)
	}
	return s.call(ctx, method, "/users/"+name+"/password", s.admin.Name, s.secret, body)
}

func (s service) call(ctx context.Context, method, path, name string, secret sdk.Secret, body any) (int, error) {
	return s.ask(ctx, method, path, name, secret, body, nil)
}

// ask makes a call, and reads an answer of the kind that is hoped for into out.
func (s service) ask(ctx context.Context, method, path, name string, secret sdk.Secret, body, out any) (int, error) {
	b, err := json.Marshal(body)
	if err != nil {
		return 0, err
	}
	secure, err := sdk.TLSConfig(s.host, s.resource)
	if err != nil {
		return 0, err
	}
	scheme := "https://"
	switch {
	case secure == nil:
		scheme = "http://"
	case s.fault == trustsAnyKey:
		secure = &tls.Config{InsecureSkipVerify: true}
	}
	req, err := http.NewRequestWithContext(ctx, method, scheme+s.resource.Address+path, bytes.NewReader(b))
	if err != nil { // of a path that was pasted together
		return http.StatusBadRequest, nil
	}
	req.SetBasicAuth(name, secret.ExposeString())
	transport := &http.Transport{DialContext: s.host.Dialer.DialContext, TLSClientConfig: secure, DisableKeepAlives: true}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return 0, errors.Join(err, ctx.Err())
	}
	if out != nil && resp.StatusCode < 300 {
		err = json.NewDecoder(resp.Body).Decode(out)
	}
	return resp.StatusCode, errors.Join(err, resp.Body.Close())
}
