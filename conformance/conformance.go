// Package conformance proves a plugin: it runs the built binary in the agent's own
// plugin host, against a real target, over a line that it can cut, hang and count.
// A plugin's test fills in a [Harness] and calls [Run]:
//
//	func TestConformance(t *testing.T) {
//		conformance.Run(t, conformance.Harness{Binary: conformance.Build(t, "."), Name: "acme", ...})
//	}
//
// Each subtest has the name that the SDK's documentation gives in brackets.
package conformance

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/agent/pluginhost"
	"github.com/rotunda-pam/rotunda/sdk"
)

// Harness is what the kit needs to know of a plugin and its target.
type Harness struct {
	Binary string // the built plugin
	Name   string // its manifest's; of one that runs scripts the binary's own
	// Script is the one to prove, of a plugin that runs scripts. It may be of dependents alone, or
	// of what is done after a rotation: then the kit proves these.
	Script []byte
	Kind   sdk.Kind

	// The target, as the resource's statement would give it.
	Resource sdk.Resource
	Pins     [][32]byte // of its TLS or host key
	Also     []string   // further addresses that a script reaches
	Admin    sdk.Credential
	AdminAs  sdk.Account

	// Account makes an account on the target, and says what its secret is. Its name
	// should be the one given; t.Skip where the target cannot have it. That is for odd names
	// alone: of a plain one, of small letters and digits, it fails the test. Where the manifest
	// declares Self, it may change its own secret.
	Account func(t *testing.T, name string) (sdk.Account, sdk.Credential)
	// Accepts asks the target whether it lets the account in, also one that is not there. It
	// must share no code with the plugin.
	Accepts func(t *testing.T, a sdk.Account, c sdk.Credential) bool
	// Candidate makes a new secret; nil makes passwords of letters and digits. Of kinds that
	// the target makes none is asked for.
	Candidate func(t *testing.T) sdk.Credential
	// Refused is a candidate that the target's own rules refuse; nil: it has none.
	Refused func(t *testing.T) sdk.Credential
	// Powerless is an administrator who may log in, and change nobody's secret; nil: the
	// target has none.
	Powerless func(t *testing.T) (sdk.Account, sdk.Credential)
	// Failures is how many failed logins the target has counted for an account; nil: it
	// does not tell.
	Failures func(t *testing.T, a sdk.Account) int
	// Dependent makes something that uses an account's secret, which is first; nil: the
	// plugin serves none.
	Dependent func(t *testing.T, a sdk.Account, first sdk.Credential) Dependent
	// After makes something to be done after a rotation that gave the account this secret; nil:
	// the plugin does nothing then.
	After func(t *testing.T, a sdk.Account, secret sdk.Credential) After
	// Groups are two that the target has, for accounts that the plugin makes; nil: it has none.
	Groups []string
	// Rights asks the target whether an account that the plugin has made is in these groups,
	// and in no others, and ends then, as exactly as the target has it; zero: it has no end.
	// It must share no code with the plugin. Nil: the plugin makes no accounts.
	Rights func(t *testing.T, a sdk.Account, groups []string, until time.Time) bool
	// Lock has the target let an account in no more, whatever its secret; nil: it cannot.
	Lock func(t *testing.T, a sdk.Account)
	// NoLogin says that nobody but a person logs in with a secret of this kind: Verify is
	// then always undecided, no_login.
	NoLogin bool
	// Local serves what the plugin asks of the agent's own machine, as pluginhost.Target.Local
	// does; nil: nothing.
	Local func(context.Context, net.Conn)
	// OneAtATime says why the target cannot be asked to change several accounts at once: it loses
	// some of the changes itself. Empty: it can.
	OneAtATime string
	// Calls is after how many NoLeak looks at the process; 0: 10,000. Fewer are enough where
	// another kit of the same program has looked at it after so many.
	Calls int
	// IDs are those of the credentials that an account has, for kinds that the target makes;
	// it must share no code with the plugin.
	IDs func(t *testing.T, a sdk.Account) []string
}

// Dependent is something that uses an account's secret.
type Dependent struct {
	Config []byte // its settings, as the account's statement would give them
	// Uses asks it whether that is the secret that it has. It must share no code with the
	// plugin.
	Uses func(t *testing.T, c sdk.Credential) bool
	// Cannot are the settings of one that no step can give a secret to, since its place is not
	// there, for one; nil: no plan can tell.
	Cannot []byte
}

// After is something to be done when a secret has been changed.
type After struct {
	Config  []byte       // what the statement would say of this use
	Records []sdk.Record // that it asks for; their addresses are in Harness.Also
	// Done says whether it has been done. It must share no code with the plugin.
	Done func(t *testing.T) bool
}

// Build builds the plugin of a package and gives the binary's path. It takes the go and the
// cp of the machine.
func Build(t *testing.T, pkg string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "plugin")
	// Not go build, which links the same program anew each time: go run keeps it.
	cmd := exec.Command("go", "run", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-exec", "cp", pkg, out)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the plugin: %v\n%s", err, b)
	}
	return out
}

// Run proves a plugin.
func Run(t *testing.T, h Harness) {
	k := newKit(t, h)
	for _, one := range k.tests() {
		if len(k.manifest.Kinds) == 0 && !slices.Contains(ofOthers, one.name) {
			continue
		}
		t.Run(one.name, one.run)
	}
}

type test struct {
	name string
	run  func(*testing.T)
}

// ofOthers are the tests of what rotates nothing.
var ofOthers = []string{"PlanIsReadOnly", "PlanHoldsNoSecret", "PlanFails", "StepTwice", "LostStepIsUnknown", "RunTwice", "NoSecretInTheLog"}

// tests are in the order in which they are run: the last looks back at all.
func (k *kit) tests() []test {
	return []test{
		{"FirstChange", k.firstChange},
		{"OpenIsReadOnly", k.openIsReadOnly},
		{"VerifyIsFresh", k.verifyIsFresh},
		{"RejectedIsProven", k.rejectedIsProven},
		{"CloseTwice", k.closeTwice},
		{"ApplyTwice", k.applyTwice},
		{"LostReplyIsUnknown", k.lostReplyIsUnknown},
		{"LateReplyIsUnknown", k.lateReplyIsUnknown},
		{"CancelledHasNoEffect", k.cancelledHasNoEffect},
		{"KillEveryStep", k.killEveryStep},
		{"TwoAgents", k.twoAgents},
		{"ManyAtOnce", k.manyAtOnce},
		{"SelfChange", k.selfChange},
		{"PolicyIsUnchanged", k.policyIsUnchanged},
		{"MissingIsNotFound", k.missingIsNotFound},
		{"LockedIsUndecided", k.lockedIsUndecided},
		{"WrongAdminIsAuth", k.wrongAdminIsAuth},
		{"WrongKeyIsAuth", k.wrongKeyIsAuth},
		{"NoRightsIsPermission", k.noRightsIsPermission},
		{"DownIsUnreachable", k.downIsUnreachable},
		{"HungEndsAtTheDeadline", k.hungEndsAtTheDeadline},
		{"DialsOnlyThroughDialer", k.dialsOnlyThroughDialer},
		{"LoginBudget", k.loginBudget},
		{"OverlapKeepsCurrent", k.overlapKeepsCurrent},
		{"RetireTouchesOnlyOld", k.retireTouchesOnlyOld},
		{"RetireTwice", k.retireTwice},
		{"ListIsComplete", k.listIsComplete},
		{"MintKeepsOthers", k.mintKeepsOthers},
		{"SweepOnlyNamed", k.sweepOnlyNamed},
		{"KillBetweenMintAndStage", k.killBetweenMintAndStage},
		{"ReadbackAgrees", k.readbackAgrees},
		{"PlanIsReadOnly", k.planIsReadOnly},
		{"PlanHoldsNoSecret", k.planHoldsNoSecret},
		{"PlanFails", k.planFails},
		{"StepTwice", k.stepTwice},
		{"LostStepIsUnknown", k.lostStepIsUnknown},
		{"ProvisionTwice", k.provisionTwice},
		{"RunTwice", k.runTwice},
		{"Printable", k.printable},
		{"OddSecrets", k.oddSecrets},
		{"HostileNames", k.hostileNames},
		{"ManifestMatches", k.manifestMatches},
		{"NoSecretInProc", k.noSecretInProc},
		{"NoLeftover", k.noLeftover},
		{"NoLeak", k.noLeak},
		{"NoSecretInTheLog", k.noSecretInTheLog},
	}
}

// kit is one plugin in a host, and the line to its target.
type kit struct {
	Harness
	dir      string // the host's, with the copy of the binary that it runs
	host     *pluginhost.Host
	plugin   pluginhost.Plugin
	manifest sdk.Manifest
	line     *line
	log      *logged

	mu      sync.Mutex
	secrets []sdk.Secret // every one that crossed to the plugin
}

type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func newKit(t *testing.T, h Harness) *kit {
	t.Helper()
	var lacks []string
	for _, field := range []struct {
		name string
		has  bool
	}{
		{"Binary", h.Binary != ""},
		{"Name", h.Name != ""},
		{"Resource.Address", h.Resource.Address != ""},
		{"Account", h.Account != nil},
		{"Accepts", h.Accepts != nil},
	} {
		if !field.has {
			lacks = append(lacks, field.name)
		}
	}
	if len(lacks) > 0 {
		t.Fatalf("the harness lacks %s: always needed", strings.Join(lacks, ", "))
	}
	if h.Kind == "" {
		h.Kind = sdk.Password
	}
	k := &kit{Harness: h, line: &line{held: make(chan struct{})}, log: &logged{}}
	if k.Candidate == nil {
		k.Candidate = func(*testing.T) sdk.Credential {
			return sdk.Credential{Kind: sdk.Password, Secret: sdk.NewSecret([]byte(rand.Text()))}
		}
	}
	binary, err := os.ReadFile(h.Binary)
	if err != nil {
		t.Fatal(err)
	}
	k.plugin = pluginhost.Plugin{Name: h.Name, SHA256: sha256.Sum256(binary)}
	// Short, since sockets live in it; and plugins run as users of their own, who must be
	// able to pass through.
	dir, err := os.MkdirTemp("", "rtc")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	k.dir = dir
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, k.plugin.String()), binary, 0o600); err != nil {
		t.Fatal(err)
	}
	catalogue, err := pluginhost.NewCatalogue(dir, []string{k.plugin.String()}, nil)
	if err != nil {
		t.Fatal(err)
	}
	// No spare process of a plugin that runs scripts: all that there are to count and to kill
	// are of what is proven.
	k.host, err = pluginhost.New(pluginhost.Config{
		Dir: filepath.Join(dir, "run"), Catalogue: catalogue, Dial: k.line.dial, BackOff: time.Millisecond, // it crashes because it is killed
		Log: slog.New(slog.NewTextHandler(k.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := k.host.Close(ctx); err != nil {
			t.Errorf("end the plugin: %v", err)
		}
	})
	if h.Script != nil {
		k.plugin = pluginhost.Scripted(k.plugin, h.Script)
	}
	d, err := k.host.Describe(t.Context(), k.plugin)
	if err != nil {
		t.Fatalf("the plugin does not start: %v\n%s", err, k.log.b.String())
	}
	k.manifest = d.Manifest
	if len(k.manifest.Kinds) == 0 && !k.manifest.Dependents && !k.manifest.After {
		t.Fatal("the manifest has neither kinds nor dependents nor anything after: there is nothing that the kit proves")
	}
	if len(k.manifest.Kinds) > 0 && !slices.Contains(k.manifest.Kinds, k.Kind) {
		t.Fatalf("the manifest does not name the kind %q", k.Kind)
	}
	if k.minted() && k.IDs == nil {
		t.Fatal("the target makes the secrets: the harness must say which an account has (IDs)")
	}
	if note := k.host.Isolation().Note; note != "" {
		t.Logf("isolation of plugins here: %s", note)
	}
	return k
}

// target is where jobs go.
func (k *kit) target() pluginhost.Target {
	t := pluginhost.Target{Key: "target", Resource: k.Resource, Allow: append([]string{k.Resource.Address}, k.Also...), Local: k.Local}
	if len(k.Pins) > 0 {
		var pins []byte
		for _, p := range k.Pins {
			pins = append(pins, p[:]...)
		}
		t.Pins = map[string][]byte{k.Resource.Address: pins}
	}
	return t
}

// saw notes secrets, which must be in no log.
func (k *kit) saw(c ...sdk.Credential) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, one := range c {
		k.secrets = append(k.secrets, one.Secret)
	}
}

// account makes an account of a plain name. A target that breaks after its start makes none:
// were that skipped, a kit that proved nothing would pass.
func (k *kit) account(t *testing.T) (sdk.Account, sdk.Credential) {
	t.Helper()
	return k.accountCalled(t, "kit"+k.nonce())
}

func (k *kit) accountCalled(t *testing.T, name string) (sdk.Account, sdk.Credential) {
	t.Helper()
	defer func() {
		if t.Skipped() {
			t.Error("the harness makes no account of a plain name")
		}
	}()
	a, c := k.Account(t, name)
	if !k.Accepts(t, a, c) {
		t.Fatal("the harness's account is not let in with its first secret")
	}
	k.saw(c)
	return a, c
}

func (k *kit) candidate(t *testing.T) sdk.Credential {
	t.Helper()
	c := k.Candidate(t)
	k.saw(c)
	return c
}

// callTime is what a call may take where a test does not say otherwise.
const callTime = 30 * time.Second

func (k *kit) openAs(ctx context.Context, as sdk.Account, admin sdk.Credential) (*pluginhost.Session, error) {
	k.saw(admin)
	s, err := k.host.Open(ctx, k.plugin, pluginhost.Job{Target: k.target(), Admin: admin, AdminAs: as})
	k.note(err)
	return s, err
}

// open opens a session that no other test has used.
func (k *kit) open(t *testing.T) *pluginhost.Session {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), callTime)
	defer cancel()
	k.host.Forget("target")
	s, err := k.openAs(ctx, k.AdminAs, k.Admin)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(s.Close)
	return s
}

func (k *kit) apply(t *testing.T, s *pluginhost.Session, a sdk.Account, candidate, current sdk.Credential) (sdk.ApplyResponse, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), callTime)
	defer cancel()
	out, err := s.Apply(ctx, sdk.ApplyRequest{Account: a, Candidate: candidate, Current: current})
	k.note(err)
	return out, err
}

// note keeps an error's text with the log: neither may hold a secret.
func (k *kit) note(err error) {
	if err != nil {
		fmt.Fprintln(k.log, err)
	}
}

// mustApply changes a secret, and holds the plugin's word against the target's.
func (k *kit) mustApply(t *testing.T, s *pluginhost.Session, a sdk.Account, candidate, current sdk.Credential) {
	t.Helper()
	out, err := k.apply(t, s, a, candidate, current)
	if err != nil || out.Outcome != sdk.Changed {
		t.Fatalf("apply: %s; want changed", said(out, err))
	}
	if !k.comesTo(t, a, candidate, true) {
		t.Fatal("apply says changed and the target refuses the candidate")
	}
}

func (k *kit) verify(t *testing.T, a sdk.Account, c sdk.Credential) (sdk.VerifyResponse, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), callTime)
	defer cancel()
	out, err := k.host.Verify(ctx, k.plugin, pluginhost.VerifyJob{Target: k.target(), Account: a, Credential: c})
	k.note(err)
	return out, err
}

func (k *kit) mustVerify(t *testing.T, a sdk.Account, c sdk.Credential, want sdk.Verdict) {
	t.Helper()
	if k.NoLogin {
		want = sdk.Undecided
	}
	got, err := k.verify(t, a, c)
	for end := time.Now().Add(k.settle()); err == nil && got.Verdict != want && time.Now().Before(end); {
		time.Sleep(settlePoll)
		got, err = k.verify(t, a, c)
	}
	if err != nil || got.Verdict != want {
		t.Fatalf("verify: %s, reason %q, %v; want %s", verdicts[got.Verdict], got.Reason, err, verdicts[want])
	}
	if k.NoLogin && got.Reason != "no_login" {
		t.Errorf("verify of a secret that no program can try: reason %q, want no_login", got.Reason)
	}
	k.isCode(t, got.Reason)
}

// isCode holds a reason to its form: one that is none crosses as "malformed".
func (k *kit) isCode(t *testing.T, reason string) {
	t.Helper()
	if reason == "malformed" {
		t.Error("a reason is a code of a-z, 0-9, dot and underscore, of at most 64 bytes")
	}
}

// truthful holds an answer against the target: it may not know, and may not be wrong.
func (k *kit) truthful(t *testing.T, a sdk.Account, candidate sdk.Credential, out sdk.ApplyResponse, err error) {
	t.Helper()
	took := k.Accepts(t, a, candidate)
	switch {
	case took && (pluginhost.NotSent(err) || err == nil && out.Outcome == sdk.Unchanged):
		t.Errorf("apply: %s; but the target took the candidate: a secret would be lost", said(out, err))
	case !took && err == nil && out.Outcome == sdk.Changed:
		t.Errorf("apply: %s; but the target refuses the candidate", said(out, err))
	}
}

var (
	outcomes = map[sdk.Outcome]string{sdk.Unknown: "unknown", sdk.Changed: "changed", sdk.Unchanged: "unchanged"}
	verdicts = map[sdk.Verdict]string{sdk.Undecided: "undecided", sdk.Accepted: "accepted", sdk.Rejected: "rejected"}
)
