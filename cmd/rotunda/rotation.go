package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/rotunda-pam/rotunda/client"
	"github.com/rotunda-pam/rotunda/internal/schedule"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/span"
)

func (c *cli) rotationCmd() *cobra.Command {
	cmd := c.group("rotation", "when accounts are rotated", `A rotation is an account's schedule, which the server keeps, and its mandate, which
you sign: the standing permission that agents hold the server to.`)
	cmd.AddCommand(c.rotationSetCmd(), c.rotationShowCmd(), c.rotationListCmd(), c.rotationPreviewCmd(),
		c.rotationPauseCmd("pause", "stop a schedule at the server, for a time", true),
		c.rotationPauseCmd("resume", "resume a schedule that was paused", false))
	return cmd
}

// scheduleFlags say when.
type scheduleFlags struct {
	cron, every, at, zone, anchor string
}

func (s *scheduleFlags) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&s.cron, "cron", "", "five fields: minute, hour, day, month, weekday")
	f.StringVar(&s.every, "every", "", "an interval, e.g. 30d, 12h, at least 2m")
	f.StringVar(&s.at, "at", "", "once, at a time")
	f.StringVar(&s.zone, "time-zone", "", "IANA `NAME` that --cron is read in (default UTC)")
	f.StringVar(&s.anchor, "from", "", "time that --every counts from (default now)")
}

func (s *scheduleFlags) given() bool { return s.cron != "" || s.every != "" || s.at != "" }

func (s *scheduleFlags) schedule(c *cli) (client.Schedule, error) {
	out := client.Schedule{Cron: s.cron, TimeZone: s.zone}
	n := 0
	for _, v := range []string{s.cron, s.every, s.at} {
		if v != "" {
			n++
		}
	}
	if n != 1 {
		return out, usagef("give exactly one of --cron, --every and --at")
	}
	if s.zone != "" && s.cron == "" {
		return out, usagef("--time-zone belongs to --cron").withHint("a time for --at or --from may carry its offset: 2027-03-28T02:30:00+01:00")
	}
	var err error
	if s.every != "" {
		if out.Every, err = inputSpan(s.every); err != nil {
			return out, err
		}
		out.Anchor = c.p.now()
	}
	if s.anchor != "" {
		if s.every == "" {
			return out, usagef("--from belongs to --every")
		}
		if out.Anchor, err = c.inputTime(s.anchor); err != nil {
			return out, err
		}
	}
	if s.at != "" {
		if out.Once, err = c.inputTime(s.at); err != nil {
			return out, err
		}
	}
	return out, nil
}

func scheduleText(s client.Schedule) string {
	switch {
	case s.Cron != "" && s.TimeZone != "":
		return s.Cron + " in " + s.TimeZone
	case s.Cron != "":
		return s.Cron + " in UTC"
	case s.Every > 0:
		return "every " + span.Text(s.Every)
	case !s.Once.IsZero():
		return "once at " + stamp(s.Once)
	default:
		return "by hand"
	}
}

func (c *cli) rotationSetCmd() *cobra.Command {
	var s scheduleFlags
	var spec client.RotationSpec
	var manual bool
	var jitter, least, mandate string
	var policy policyFlags
	cmd := c.leaf("set RECORD", "set when an account is rotated, and sign the mandate for it", func(ctx context.Context, args []string) error {
		if manual == s.given() {
			return usagef("give --manual, or one of --cron, --every and --at")
		}
		if !manual {
			sched, err := s.schedule(c)
			if err != nil {
				return err
			}
			spec.Schedule = &sched
		}
		var err error
		if spec.Jitter, err = optionalSpan(jitter); err != nil {
			return err
		}
		if spec.MinInterval, err = optionalSpan(least); err != nil {
			return err
		}
		if spec.MandateFor, err = optionalSpan(mandate); err != nil {
			return err
		}
		if spec.Policy, err = policy.policy(); err != nil {
			return err
		}
		return c.with(ctx, func(cl *client.Client) error {
			r, err := findAccount(ctx, cl, args[0])
			if err != nil {
				return err
			}
			spec.Account = r.Ref
			if err := cl.SetRotation(ctx, spec); err != nil {
				return err
			}
			if manual {
				return c.done(r.Title + " rotates by hand only, and its mandate is off")
			}
			return c.showRotation(ctx, cl, r)
		})
	})
	s.flags(cmd)
	f := cmd.Flags()
	f.BoolVar(&manual, "manual", false, "by hand only: the schedule and the mandate end")
	choiceVar(cmd, &spec.Missed, "missed", "once", missedTimes, "what happens to times that were missed: skip, or once")
	f.StringVar(&jitter, "jitter", "", "spread the start over this span: at most a quarter of the schedule's shortest gap, and at most 24h")
	f.StringVar(&least, "min-interval", "", "least time between two rotations that agents accept (default: half the schedule's shortest gap; at most three quarters of it, less the jitter)")
	f.StringVar(&mandate, "mandate-for", "", "how long agents act on the schedule without a new signature (default and at most 400d)")
	f.BoolVar(&spec.Paused, "paused", false, "start paused")
	policy.flags(cmd)
	return help(cmd, "", `rotunda rotation set app --every 30d --jitter 2h
rotunda rotation set app --cron "30 3 * * 1" --time-zone Europe/Berlin
rotunda rotation set app --manual`)
}

func optionalSpan(s string) (time.Duration, error) {
	if s == "" {
		return 0, nil
	}
	return inputSpan(s)
}

// findAccount finds an account by title, folder/title or uid.
func findAccount(ctx context.Context, cl *client.Client, name string) (*client.Record, error) {
	r, err := cl.FindRecord(ctx, name, client.TypeAccount)
	if client.ReasonOf(err) != "not_found" {
		return r, err
	}
	other, otherErr := cl.FindRecord(ctx, name)
	switch {
	case otherErr != nil:
		return nil, err
	case slices.Contains(resourceTypes[:], other.Type):
		return nil, failf(exitUsage, "no_account", "%s is a resource, not an account", other.Title).
			withHint("`rotunda rotate --resource NAME` and `rotunda verify --resource NAME` choose its accounts")
	}
	return nil, failf(exitUsage, "no_account", "%s is a record of type %s, not an account: Rotunda only keeps it", other.Title, other.Type).
		withHint("an account is made with `rotunda record add --resource`")
}

// rotationView is an account's rotation.
type rotationView struct {
	Account  string       `json:"account"`
	Title    string       `json:"title,omitempty"`
	Schedule string       `json:"schedule"`
	Missed   string       `json:"missed"`
	Jitter   string       `json:"jitter,omitempty"`
	State    string       `json:"state"`
	Next     string       `json:"next,omitempty"`
	Last     string       `json:"last,omitempty"`
	Failures int          `json:"failures"`
	Reason   string       `json:"reason,omitempty"`
	Mandate  *mandateView `json:"mandate,omitempty"`
}

func viewRotation(r client.Rotation, title string) rotationView {
	v := rotationView{
		Account: r.Account.String(), Title: title, Schedule: scheduleText(r.Schedule), Missed: r.Missed,
		State: r.State, Next: stamp(r.Next), Last: stamp(r.Last), Failures: r.Failures, Reason: r.Reason,
	}
	if r.Paused {
		v.State = "paused"
	}
	if r.Jitter > 0 {
		v.Jitter = span.Text(r.Jitter)
	}
	if m := r.Mandate; m != nil {
		v.Mandate = &mandateView{m.Enabled, m.MinIntervalS, stamp(time.UnixMilli(m.ValidUntil))}
	}
	return v
}

func (c *cli) showRotation(ctx context.Context, cl *client.Client, r *client.Record) error {
	rot, err := cl.RotationOf(ctx, r.Ref)
	if err != nil {
		return err
	}
	v := viewRotation(rot, r.Title)
	if m := rot.Mandate; m.GetEnabled() && !rot.Next.IsZero() && rot.Next.After(time.UnixMilli(m.ValidUntil)) {
		c.warn("the mandate ends before the next firing, which agents will refuse: sign it again with `rotunda rotation set` before then")
	}
	return c.emit(v, func(w io.Writer) {
		pairs(w, "account", v.Title, "schedule", v.Schedule, "missed", v.Missed, "jitter", v.Jitter, "state", v.State,
			"next", local(v.Next), "last", local(v.Last), "failures", nonZero(v.Failures), "reason", v.Reason, "mandate", v.Mandate.text())
	})
}

func nonZero(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}

func (c *cli) rotationShowCmd() *cobra.Command {
	return c.leaf("show RECORD", "show an account's schedule and mandate", func(ctx context.Context, args []string) error {
		return c.with(ctx, func(cl *client.Client) error {
			r, err := findAccount(ctx, cl, args[0])
			if err != nil {
				return err
			}
			return c.showRotation(ctx, cl, r)
		})
	})
}

func (c *cli) rotationListCmd() *cobra.Command {
	var pg page
	var folder, state string
	cmd := c.leaf("list", "list schedules", func(ctx context.Context, _ []string) error {
		return c.with(ctx, func(cl *client.Client) error {
			var uid seal.ID
			if folder != "" {
				f, err := cl.FindFolder(ctx, folder)
				if err != nil {
					return err
				}
				uid = f.UID
			}
			rotations, next, err := take(&pg, cl.Rotations(ctx, uid), func(r client.Rotation) bool {
				return state == "" || r.State == state
			})
			if err != nil {
				return err
			}
			refs := make([]client.Ref, 0, len(rotations))
			for _, r := range rotations {
				refs = append(refs, r.Account)
			}
			names, err := titles(ctx, cl, refs)
			if err != nil {
				return err
			}
			views := make([]rotationView, 0, len(rotations))
			for _, r := range rotations {
				views = append(views, viewRotation(r, names[r.Account]))
			}
			return list(c, &pg, "rotations", views, next, []string{"account", "schedule", "state", "next", "last", "failures", "reason"}, func(v rotationView) []string {
				name := v.Title
				if name == "" {
					name = v.Account
				}
				return []string{name, v.Schedule, v.State, local(v.Next), local(v.Last), nonZero(v.Failures), v.Reason}
			})
		})
	})
	cmd.Flags().StringVar(&folder, "folder", "", "only this folder")
	choiceVar(cmd, &state, "state", "", rotationStates, "only: scheduled, paused, running, retrying, alert or done")
	pg.flags(cmd)
	return cmd
}

// titles gives the titles of records, as far as they can be read.
func titles(ctx context.Context, cl *client.Client, refs []client.Ref) (map[client.Ref]string, error) {
	names := make(map[client.Ref]string, len(refs))
	var want []client.Ref
	for _, r := range refs {
		if _, known := names[r]; !known && !r.IsZero() {
			names[r] = ""
			want = append(want, r)
		}
	}
	for len(want) > 0 {
		n := min(len(want), maxPage)
		records, err := cl.Get(ctx, want[:n]...)
		if err != nil {
			return nil, err
		}
		for _, r := range records {
			names[r.Ref] = r.Title
		}
		want = want[n:]
	}
	return names, nil
}

// previewView is what a schedule does next.
type previewView struct {
	Schedule string          `json:"schedule"`
	Jitter   string          `json:"jitter,omitempty"` // that the times have in them
	Times    []string        `json:"times"`
	Refused  []refusedFiring `json:"refused,omitempty"` // of an account's: by its mandate
}

type refusedFiring struct {
	Time   string `json:"time"`
	Reason string `json:"reason"`
}

func (c *cli) rotationPreviewCmd() *cobra.Command {
	var s scheduleFlags
	var count int
	cmd := c.leaf("preview [RECORD]", "show the next times of an account's schedule, or of one that you think of", func(ctx context.Context, args []string) error {
		if (len(args) == 1) == s.given() {
			return usagef("name an account, or give one of --cron, --every and --at")
		}
		if count < 1 || count > 100 {
			return usagef("--count is %d: it is 1 to 100", count)
		}
		show := func(sched client.Schedule, jitter time.Duration, firings []client.Firing) error {
			v := previewView{Schedule: scheduleText(sched), Times: []string{}}
			if jitter > 0 {
				v.Jitter = span.Text(jitter)
				c.note("each with the account's own part of up to %s jitter:", v.Jitter)
			}
			if len(firings) == 0 {
				c.note("the schedule never fires again")
			}
			for _, f := range firings {
				v.Times = append(v.Times, stamp(f.At))
				if f.Refused != "" {
					v.Refused = append(v.Refused, refusedFiring{stamp(f.At), string(f.Refused)})
				}
			}
			zone, err := time.LoadLocation(sched.TimeZone) // "" is UTC
			if err != nil {
				return usagef("--time-zone: %w", err)
			}
			return c.emit(v, func(w io.Writer) {
				for _, f := range firings {
					line := f.At.In(zone).Format("Mon 2006-01-02 15:04:05 MST")
					if f.Refused != "" {
						line += "  the mandate refuses it: " + string(f.Refused)
					}
					printLine(w, "%s", line)
				}
			})
		}
		if len(args) == 0 {
			sched, err := s.schedule(c)
			if err != nil {
				return err
			}
			times, err := client.Preview(sched, c.p.now(), count)
			if err != nil {
				return err
			}
			if len(times) == 0 {
				return failf(exitUsage, schedule.Reason, "%s: that is past, so that it never fires", scheduleText(sched))
			}
			firings := make([]client.Firing, len(times))
			for i, t := range times {
				firings[i].At = t
			}
			return show(sched, 0, firings)
		}
		return c.with(ctx, func(cl *client.Client) error {
			r, err := findAccount(ctx, cl, args[0])
			if err != nil {
				return err
			}
			rot, err := cl.RotationOf(ctx, r.Ref)
			if err != nil {
				return err
			}
			firings, err := rot.Preview(c.p.now(), count)
			if err != nil {
				return err
			}
			return show(rot.Schedule, rot.Jitter, firings)
		})
	})
	s.flags(cmd)
	cmd.Flags().IntVar(&count, "count", 10, "how many, at most 100")
	return help(cmd, `Of an account's schedule it also shows which times agents would refuse by the account's
mandate: it is off, it ends before, or the secret was changed within its least interval.`, `rotunda rotation preview app
rotunda rotation preview --cron "30 2 * * *" --time-zone Europe/Berlin --count 5`)
}

func (c *cli) rotationPauseCmd(verb, short string, paused bool) *cobra.Command {
	cmd := c.leaf(verb+" RECORD...", short, func(ctx context.Context, args []string) error {
		return c.with(ctx, func(cl *client.Client) error {
			for _, name := range args {
				r, err := findAccount(ctx, cl, name)
				if err != nil {
					return err
				}
				if err := cl.PauseRotation(ctx, r.Ref, paused); err != nil {
					return err
				}
				c.note("%s %sd", r.Title, verb)
			}
			return c.emit(map[string]any{"done": verb, "accounts": len(args)}, func(io.Writer) {})
		})
	})
	if paused {
		cmd.Long = `The server keeps a pause by its honesty alone. To end the agents' permission, sign it
off: "rotunda rotation set RECORD --manual".`
	}
	return cmd
}
