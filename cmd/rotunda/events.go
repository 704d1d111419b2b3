package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rotunda-pam/rotunda/client"
)

// eventView is one event.
type eventView struct {
	Seq    int64             `json:"seq"`
	Time   string            `json:"time"`
	Name   string            `json:"name"`
	Actor  string            `json:"actor,omitempty"`
	Record string            `json:"record,omitempty"`
	RunID  string            `json:"run_id,omitempty"`
	Reason string            `json:"reason,omitempty"`
	Fields map[string]string `json:"fields,omitempty"`
}

func viewEvent(e client.Event) eventView {
	v := eventView{Seq: e.Seq, Time: stamp(e.Time), Name: e.Name, Actor: e.ActorName, Reason: e.Reason, Fields: e.Fields}
	if v.Actor == "" && !e.Actor.IsZero() {
		v.Actor = e.Actor.String()
	}
	if !e.Record.IsZero() {
		v.Record = e.Record.String()
	}
	if !e.RunID.IsZero() {
		v.RunID = e.RunID.String()
	}
	return v
}

// fieldText is an event's fields in a fixed order.
func (v eventView) fieldText() string {
	var parts []string
	for name, value := range v.Fields {
		if at, err := strconv.ParseInt(value, 10, 64); err == nil && (name == "next" || name == "not_after") {
			value = local(stamp(time.UnixMilli(at)))
		}
		if value != "" {
			parts = append(parts, name+"="+value)
		}
	}
	sort.Strings(parts)
	if v.Record != "" {
		parts = append(parts, "record="+v.Record)
	}
	if v.RunID != "" {
		parts = append(parts, "run="+v.RunID)
	}
	return strings.Join(parts, " ")
}

func (c *cli) eventsCmd() *cobra.Command {
	var pg page
	var f client.EventFilter
	var follows, oldest bool
	var cmd *cobra.Command
	cmd = c.leaf("events", "list what happened, or follow it", func(ctx context.Context, _ []string) error {
		if follows && (pg.token != "" || pg.all) {
			return usagef("--follow excludes --page and --all")
		}
		if f.After < 0 {
			return usagef("--after is %d: it is the number of an event", f.After)
		}
		return c.with(ctx, func(cl *client.Client) error {
			if follows {
				if !cmd.Flags().Changed("after") {
					f.After = -1 // from now on
				}
				return c.followEvents(ctx, cl, f)
			}
			f.NewestFirst = !oldest && f.After == 0
			events, next, err := follow(&pg, func(token string, limit int) ([]client.Event, string, error) {
				f.Token, f.Limit = token, limit
				return cl.Events(ctx, f)
			})
			if err != nil {
				return err
			}
			views := make([]eventView, 0, len(events))
			for _, e := range events {
				views = append(views, viewEvent(e))
			}
			return list(c, &pg, "events", views, next, []string{"seq", "time", "event", "by", "reason", "about"}, func(v eventView) []string {
				return []string{fmt.Sprint(v.Seq), local(v.Time), v.Name, v.Actor, v.Reason, v.fieldText()}
			})
		})
	})
	fl := cmd.Flags()
	fl.BoolVarP(&follows, "follow", "f", false, "go on with what happens from now (or from --after), until interrupted or for --timeout; with --json a line an event")
	fl.Int64Var(&f.After, "after", 0, "only events after this number, oldest first")
	fl.StringSliceVar(&f.Names, "name", nil, "only events whose name begins so, e.g. run.,record.revealed")
	completes(cmd, "name", eventGroups)
	fl.BoolVar(&oldest, "oldest-first", false, "oldest first")
	pg.flags(cmd)
	return help(cmd, `Events are the server's own record of what it did and was told: names of people in
it come from the verified log, the rest is its word.`, `rotunda events --name run. --limit 20
rotunda events --follow --json`)
}

func (c *cli) followEvents(ctx context.Context, cl *client.Client, f client.EventFilter) error {
	err := cl.FollowEvents(ctx, f.After, f.Names, func(e client.Event) error {
		v := viewEvent(e)
		return c.emit(v, func(w io.Writer) {
			line := []string{local(v.Time), v.Name}
			for _, s := range []string{v.Actor, v.Reason, v.fieldText()} {
				if s != "" {
					line = append(line, s)
				}
			}
			printLine(w, "%s", strings.Join(line, "  "))
		})
	})
	if c.timeout > 0 && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return nil // as long as was asked
	}
	return err
}
