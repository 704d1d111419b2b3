package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rotunda-pam/rotunda/client"
	"github.com/rotunda-pam/rotunda/internal/enrol"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/span"
	"github.com/rotunda-pam/rotunda/internal/trust"
)

const (
	// maxSkew is what signed messages allow.
	maxSkew = 120 * time.Second
	// deviceSoon is how long before its end a device is spoken of.
	deviceSoon = 30 * 24 * time.Hour
	// doctorCall bounds each look at the server.
	doctorCall = 15 * time.Second
)

// finding is what one check found.
type finding struct {
	Check  string `json:"check"`
	Status string `json:"status"` // ok, warn, fail, skip
	Text   string `json:"text"`
	Do     string `json:"do,omitempty"`
}

// examination collects findings.
type examination struct{ list []finding }

// ok says that a check found nothing; after a finding of the same check it says nothing.
func (x *examination) ok(check, format string, args ...any) {
	for _, f := range x.list {
		if f.Check == check {
			return
		}
	}
	x.list = append(x.list, finding{check, "ok", fmt.Sprintf(format, args...), ""})
}

func (x *examination) warn(check, do, format string, args ...any) {
	x.list = append(x.list, finding{check, "warn", fmt.Sprintf(format, args...), do})
}

func (x *examination) fail(check, do, format string, args ...any) {
	x.list = append(x.list, finding{check, "fail", fmt.Sprintf(format, args...), do})
}

// failed is the finding of a check that could not be made.
func (x *examination) failed(check string, err error) {
	f := classify(err)
	x.fail(check, f.hint, "%v (%s)", f, f.reason)
}

func (c *cli) doctorCmd() *cobra.Command {
	cmd := c.leaf("doctor", "look for what is wrong, or soon will be, and say what to do", func(ctx context.Context, _ []string) error {
		x := &examination{}
		c.examine(ctx, x)
		wrong := 0
		for _, f := range x.list {
			if f.Status == "warn" || f.Status == "fail" {
				wrong++
			}
		}
		err := c.emit(map[string]any{"findings": x.list}, func(w io.Writer) {
			for _, f := range x.list {
				printLine(w, "%-4s  %-9s  %s", f.Status, f.Check, f.Text)
				for line := range strings.Lines(f.Do) {
					printLine(w, "                 -> %s", strings.TrimRight(line, "\n"))
				}
			}
		})
		if err == nil && wrong > 0 {
			return failf(exitFindings, "findings", "%d finding%s", wrong, plural(wrong))
		}
		return err
	})
	return help(cmd, `Looks at this profile and its store, the way to the server and its authority, the
clocks, the age of the log, whether the server recovers from a backup, folder keys that
have not come, agents (connected, of what version), devices that end, what those still
know who were removed (folder keys, accounts not rotated since, keys of applications; folders
that this device cannot read are not looked at, and that is a finding) and which agents have not heard of it, accounts that are late or whose value was lost,
whose dependents have not got their new secret, or whose scripts failed when they ran last, and
records that name what is not there: above all the administrator of a resource whose
accounts need one.
The exit code is 10 when there is something to do.`, "")
}

// examine makes the checks in an order in which each rests on the former.
func (c *cli) examine(ctx context.Context, x *examination) {
	p, err := c.openProfile()
	if err != nil {
		x.failed("profile", err)
		return
	}
	info, err := p.Info()
	if err != nil {
		x.failed("profile", err)
		return
	}
	if !info.Exists {
		x.fail("profile", "`rotunda org init` makes an organisation, `rotunda join` enters one with a token", "no device is enrolled in profile %s", info.Name)
		return
	}
	x.ok("profile", "%s, organisation %s", info.Name, info.OrgID.Fingerprint())
	reached := c.examineServer(ctx, x, info)
	switch {
	case info.Unlocked:
		x.ok("store", "open until %s", c.when(info.UnlockedUntil))
	case c.passphraseFrom() == "" && !c.p.stdinTerminal:
		x.warn("store", "`rotunda unlock`, or --passphrase-file FILE", "locked: what needs this device's keys was not looked at")
		return
	default:
		x.ok("store", "locked, a passphrase is at hand")
	}
	if !reached {
		return
	}
	err = c.with(ctx, func(cl *client.Client) error {
		if !c.examineLog(ctx, x, cl) {
			return nil
		}
		c.examineRecovery(ctx, x, cl)
		c.examineFolders(ctx, x, cl)
		c.examineAgents(ctx, x, cl)
		c.examineDevices(ctx, x, cl)
		c.examinePeople(ctx, x, cl)
		c.examineAccounts(ctx, x, cl)
		c.examineRecords(ctx, x, cl)
		return nil
	})
	if err != nil {
		x.failed("store", err)
	}
}

// examineServer looks at the way to the server, its authority and its clock.
func (c *cli) examineServer(ctx context.Context, x *examination, info client.ProfileInfo) bool {
	tls, err := enrol.TLSConfig(info.Server, info.CAPin)
	if err != nil {
		x.failed("server", err)
		return false
	}
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: tls, TLSHandshakeTimeout: doctorCall}
	defer transport.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(ctx, doctorCall)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+info.Server+"/healthz", nil)
	if err != nil {
		x.failed("server", err)
		return false
	}
	sent := c.p.now()
	resp, err := (&http.Client{Transport: transport}).Do(req)
	var dns *net.DNSError
	switch {
	case trust.ReasonOf(err) == trust.CAMismatch:
		x.fail("server", "somebody stands in between, or the server was set up anew: ask its administrator for the authority's pin", "%s does not prove itself by the pinned authority", info.Server)
		return false
	case errors.As(err, &dns):
		x.fail("server", "look at the name and at this machine's resolver", "%s has no address", info.Server)
		return false
	case err != nil:
		x.fail("server", "look whether the server runs, and at the network between", "%s does not answer: %v", info.Server, err)
		return false
	}
	defer resp.Body.Close()
	got := c.p.now()
	if resp.StatusCode != http.StatusOK {
		x.warn("server", "the server's log tells why", "%s answers, and says that it is not well (%d)", info.Server, resp.StatusCode)
	} else {
		x.ok("server", "%s answers in %d ms", info.Server, got.Sub(sent).Milliseconds())
	}
	at, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		x.warn("clock", "", "the server tells no time")
		return true
	}
	// The header has whole seconds, and was written between sent and got.
	skew := at.Add(500 * time.Millisecond).Sub(sent.Add(got.Sub(sent) / 2))
	switch {
	case skew.Abs() > maxSkew:
		x.fail("clock", "set the clocks by NTP: what is signed here is refused elsewhere", "this machine and the server differ by %s", span.Text(skew.Abs()))
	case skew.Abs() > maxSkew/4:
		x.warn("clock", "set the clocks by NTP: beyond two minutes signatures are refused", "this machine and the server differ by %s", span.Text(skew.Abs()))
	default:
		x.ok("clock", "differs from the server's by less than %s", span.Text(maxSkew/4))
	}
	return true
}

// examineLog looks at the log; without it nothing else can be looked at.
func (c *cli) examineLog(ctx context.Context, x *examination, cl *client.Client) bool {
	if err := cl.Sync(ctx); err != nil {
		x.failed("log", err)
		return false
	}
	s, err := cl.LogStatus(ctx)
	if err != nil {
		x.failed("log", err)
		return false
	}
	policy, err := cl.Policy(ctx)
	if err != nil {
		x.failed("log", err)
		return false
	}
	life := time.Duration(policy.GetMaxAgeDays()) * 24 * time.Hour
	left := s.ValidUntil.Sub(c.p.now())
	do := "any administrator runs any command, e.g. `rotunda log verify`: that renews it"
	switch {
	case left <= 0:
		x.fail("log", do, "stale since %s: agents have stopped", c.when(s.ValidUntil))
	case left < life/2:
		x.warn("log", do, "good until %s: then agents stop", c.when(s.ValidUntil))
	default:
		x.ok("log", "%d changes, good until %s", s.Changes, c.when(s.ValidUntil))
	}
	return true
}

func (c *cli) examineFolders(ctx context.Context, x *examination, cl *client.Client) {
	folders, err := cl.Folders(ctx)
	if err != nil {
		x.failed("folders", err)
		return
	}
	missing := 0
	for _, f := range folders {
		if f.Missing {
			missing++
			x.warn("folders", "somebody who may share it runs any command: that hands the key over; where the server was restored to before a re-keying, nobody can: `rotunda folder rekey "+f.UID.String()+" --restored`", "the key of folder %s has not come to this device", f.UID)
		}
	}
	if missing == 0 {
		x.ok("folders", "%d, and their keys are here", len(folders))
	}
}

func (c *cli) examineAgents(ctx context.Context, x *examination, cl *client.Client) {
	agents, err := cl.Agents(ctx, seal.ID{})
	if err != nil {
		x.failed("agents", err)
		return
	}
	pools, err := cl.Pools(ctx)
	if err != nil {
		x.failed("agents", err)
		return
	}
	live := map[seal.ID]int{}
	versions := map[string]bool{}
	for _, a := range agents {
		if !a.Connected {
			x.warn("agents", "look at the host it runs on; remove it if it is gone: `rotunda agent remove`", "%s / %s is away, seen %s", a.PoolName, a.Name, c.ago(a.Seen))
			continue
		}
		live[a.Pool]++
		versions[a.Version] = true
	}
	for _, p := range pools {
		if live[p.ID] == 0 {
			x.fail("agents", "`rotunda agent token NAME --pool "+p.Name+"` installs one", "pool %s has no connected agent: nothing is rotated there", p.Name)
		}
	}
	if len(versions) > 1 {
		x.warn("agents", "upgrade those that lag behind: `rotunda agent list`", "connected agents are of %d versions", len(versions))
	}
	x.ok("agents", "%d of %d connected, in %d pool%s", sum(live), len(agents), len(pools), plural(len(pools)))
}

func sum(m map[seal.ID]int) int {
	n := 0
	for _, v := range m {
		n += v
	}
	return n
}

func (c *cli) examineDevices(ctx context.Context, x *examination, cl *client.Client) {
	members, err := cl.Members(ctx)
	if err != nil {
		x.failed("devices", err)
		return
	}
	n := 0
	for _, m := range members {
		for _, d := range m.Devices {
			n++
			left := d.NotAfter.Sub(c.p.now())
			switch {
			case d.NotAfter.IsZero():
			case left <= 0:
				x.warn("devices", "`rotunda device remove "+d.ID.String()+"`: until then it signs with a date of the past, with the server's help", "%s of %s is past its time since %s", d.Name, m.Name, c.when(d.NotAfter))
			case left < deviceSoon:
				x.warn("devices", "`rotunda device add` makes a token for its successor", "%s of %s is good until %s", d.Name, m.Name, c.when(d.NotAfter))
			}
		}
	}
	x.ok("devices", "%d looked at", n)
}

func (c *cli) examineAccounts(ctx context.Context, x *examination, cl *client.Client) {
	for _, look := range []struct{ filter, is, do string }{
		{"overdue", "is overdue", "`rotunda run list --overdue` shows them; is an agent of their pool connected?"},
		{"unmended", "failed, and nothing since has done what it was to do", "`rotunda run list --failed` shows them, `rotunda run show` why"},
	} {
		late, err := lastFailed(ctx, cl, look.filter)
		if err != nil {
			x.failed("accounts", err)
			return
		}
		if n := len(late); n > 0 {
			x.warn("accounts", look.do, "%d account%s with a run that %s", n, plural(n), look.is)
		}
	}
	if err := c.examineRest(ctx, x, cl); err != nil {
		x.failed("accounts", err)
		return
	}
	alerts := 0
	for r, err := range cl.Rotations(ctx, seal.ID{}) {
		if err != nil {
			x.failed("accounts", err)
			return
		}
		if r.State == "alert" {
			alerts++
		}
	}
	if alerts > 0 {
		x.fail("accounts", "`rotunda rotation list --state alert` shows them", "%d rotation%s stopped and wait%s for a person", alerts, plural(alerts), map[bool]string{true: "s", false: ""}[alerts == 1])
		return
	}
	x.ok("accounts", "no rotation waits for a person")
}

// examineRest finds accounts that have their secret, and of which something else was not
// done with it: what depends on them, or their scripts.
func (c *cli) examineRest(ctx context.Context, x *examination, cl *client.Client) error {
	for _, look := range []struct {
		filter, what string
		do           func(first string) string
	}{
		{"unmended_dependents", "what depends on %s has not got the new secret", func(first string) string {
			return "`rotunda run list --failed` shows the runs, `rotunda run show` what refused it; once that is mended, `rotunda rotate " + first + "` gives them the next"
		}},
		{"unmended_scripts", "the scripts of %s failed when they ran last", func(string) string {
			return "`rotunda run list --failed` shows the runs, `rotunda run show` what each script said; once that is mended, `rotunda script run --failed` runs them again"
		}},
	} {
		failed, err := lastFailed(ctx, cl, look.filter)
		if err != nil {
			return err
		}
		names, err := titles(ctx, cl, slices.Collect(maps.Keys(failed)))
		if err != nil {
			return err
		}
		var list []string
		for _, name := range names {
			if name != "" { // else it is gone
				list = append(list, name)
			}
		}
		if slices.Sort(list); len(list) > 0 {
			x.warn("accounts", look.do(list[0]), look.what, few(list))
		}
	}
	return nil
}
