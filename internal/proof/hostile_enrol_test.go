package proof

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/enrol"
	"github.com/rotunda-pam/rotunda/internal/installation"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

// ---- enrolment ----

// token makes an agent's token by the command line.
func (w *hostileWorld) token(t *testing.T) (enrol.Token, trust.Entry) {
	t.Helper()
	name := w.name("gw")
	file := filepath.Join(t.TempDir(), "token")
	w.cli(t, "agent", "token", name, "--pool", installation.Pool, "--unattended", "--out", file)
	return readToken(t, file), w.entry(t, trustv1.EntryKind_ENTRY_KIND_ENROLMENT, name)
}

func readToken(t *testing.T, file string) enrol.Token {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	token, err := enrol.ParseToken(sdk.NewSecret(b))
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// enrol has the agent's program use a token; it says what the program printed, and
// whether an agent was made.
func (w *hostileWorld) enrol(t *testing.T, token enrol.Token) (said string, made bool) {
	t.Helper()
	dir := t.TempDir()
	config, file := filepath.Join(dir, "agent.toml"), filepath.Join(dir, "token")
	if err := os.WriteFile(config, fmt.Appendf(nil, "data_dir = %q\n", dir), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, token.Text().Expose(), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), filepath.Join(w.Bin, "rotunda-agent"), "enrol", "--config", config, "--token-file", file).CombinedOutput()
	_, statErr := os.Stat(filepath.Join(dir, "agent.key"))
	if (err == nil) != (statErr == nil) {
		t.Errorf("the program ended with %v, and the key file: %v", err, statErr)
	}
	return string(out), err == nil
}

// barred asserts that a token leads nowhere, for that reason.
func (w *hostileWorld) barred(t *testing.T, reason trust.Reason, token enrol.Token) {
	t.Helper()
	w.untouched(t, func() {
		if said, made := w.enrol(t, token); made || !strings.Contains(said, string(reason)) {
			t.Errorf("an agent was made: %t; the program said %q, want %s", made, said, reason)
		}
	})
}

// welcome is the honest case of a token.
func (w *hostileWorld) welcome(t *testing.T, token enrol.Token, e trust.Entry) {
	t.Helper()
	since := w.now(t)
	if said, made := w.enrol(t, token); !made {
		t.Fatalf("the honest case: %s", said)
	}
	if e := w.told(t, since, "agent.enrolled", ""); e.Fields["name"] == "" {
		t.Error("the event names no agent")
	}
	if now, _ := w.log(t).Entry(e.ID); now.Kind != trustv1.EntryKind_ENTRY_KIND_AGENT {
		t.Errorf("entry %s is a %v", e.ID, now.Kind)
	}
}

func anotherLogShown(t *testing.T, w *hostileWorld) {
	honest, made := w.token(t)
	defer w.remove(t, made.ID)
	w.welcome(t, honest, made)

	token, e := w.token(t)
	defer w.remove(t, e.ID)
	l := w.log(t)
	w.other(t)
	lie := w.logOf(t, 2)
	at := token
	at.Server = w.fakeVault(t, lie.Org(), e.ID, w.changes(t, 2), lie.Head().Digest)
	w.barred(t, trust.HeadMissing, at)

	older, _ := l.DigestAt(e.Epoch - 1)
	at.Server = w.fakeVault(t, l.Org(), e.ID, w.changes(t, 1)[:e.Epoch], older)
	w.barred(t, trust.HeadMissing, at)

	// With the true log the same fake is believed: it fails at what it cannot do.
	at.Server = w.fakeVault(t, l.Org(), e.ID, w.changes(t, 1), l.Head().Digest)
	w.untouched(t, func() {
		if said, made := w.enrol(t, at); made || strings.Contains(said, string(trust.HeadMissing)) || !strings.Contains(said, "unimplemented") {
			t.Errorf("the fake with the true log: an agent was made: %t; the program said %q", made, said)
		}
	})

	// The token is not used up.
	if now, _ := w.log(t).Entry(e.ID); now.Kind != trustv1.EntryKind_ENTRY_KIND_ENROLMENT {
		t.Errorf("entry %s is a %v", e.ID, now.Kind)
	}
	w.welcome(t, token, e)
}

func tokenUsedTwice(t *testing.T, w *hostileWorld) {
	token, e := w.token(t)
	defer w.remove(t, e.ID)
	w.welcome(t, token, e)
	since := w.now(t)
	w.barred(t, trust.EnrolUsed, token)
	if got := w.told(t, since, "enrol.refused", trust.EnrolUsed); got.Fields["entry"] != e.ID.String() {
		t.Errorf("the event names entry %s, want %s", got.Fields["entry"], e.ID)
	}
}

func enrolmentInTheMiddle(t *testing.T, w *hostileWorld) {
	reached := make(chan struct{}, 16)
	address := newAuthority(t).listen(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached <- struct{}{} }))
	honest, made := w.token(t)
	defer w.remove(t, made.ID)
	w.welcome(t, honest, made)
	token, e := w.token(t)
	defer w.remove(t, e.ID)
	at := token
	at.Server = address
	w.barred(t, trust.CAMismatch, at)
	w.welcome(t, token, e) // it is not used up

	// A person's device.
	w.joins(t, "alice", func(*installation.Installation, string) {})
	w.joins(t, "bob", func(bob *installation.Installation, file string) {
		at := readToken(t, file)
		at.Server = address
		there := file + ".led-astray"
		if err := os.WriteFile(there, at.Text().Expose(), 0o600); err != nil {
			t.Fatal(err)
		}
		w.untouched(t, func() {
			if _, err := bob.CLI(t.Context(), nil, "join", there, "--json"); reasonOf(err) != string(trust.CAMismatch) {
				t.Errorf("join: %q, %v", reasonOf(err), err)
			}
		})
	})
	if len(reached) > 0 {
		t.Error("a request went to a server of another authority")
	}
}

// joins has a person join by a token, before which something may be done with it.
func (w *hostileWorld) joins(t *testing.T, name string, before func(person *installation.Installation, token string)) {
	t.Helper()
	name = w.name(name)
	file := filepath.Join(w.Dir, name+".token")
	w.cli(t, "member", "add", name, "--out", file, "--no-wait")
	defer w.cli(t, "member", "remove", name, "--no-rekey", "--no-rotate")
	person := w.elsewhere(t, name)
	before(person, file)
	if _, err := person.CLI(t.Context(), nil, "join", file); err != nil {
		t.Errorf("the honest case: %v", err)
	}
}

func enrolmentForged(t *testing.T, w *hostileWorld) {
	pool := w.entry(t, trustv1.EntryKind_ENTRY_KIND_POOL, installation.Pool).ID
	honest, made := w.token(t)
	defer w.remove(t, made.ID)
	w.welcome(t, honest, made)

	// The server knows an open enrolment, not its token.
	token, e := w.token(t)
	defer w.remove(t, e.ID)
	keys, err := enrol.MakeKeys(trustv1.EntryKind_ENTRY_KIND_AGENT)
	if err != nil {
		t.Fatal(err)
	}
	public, err := keys.Public()
	if err != nil {
		t.Fatal(err)
	}
	put := func(e trust.Entry) *trustv1.Op {
		return trust.PutOp(trust.Successor(e, keys.SignPub(), public, time.Time{}))
	}
	own := newSigner(t)
	w.unlawful(t, trust.LogSigner, func(l *trust.Log) []byte {
		return signedBy(t, l, l.NewChange(e.ID, time.Now(), put(e)), own, keys.Sign)
	})
	w.welcome(t, token, e) // it is not used up

	// An administrator kept a token, and was removed or demoted.
	for _, removed := range []bool{true, false} {
		member, eve := w.member(t, trust.AllRoles)
		seed, id := seal.NewKey(), seal.NewID()
		kept := trust.NewEnrolment(id, seed, trustv1.EntryKind_ENTRY_KIND_AGENT, pool, w.name("hers"), 0, time.Now().Add(time.Hour))
		eve.append(t, trust.PutOp(kept))
		entry, open := w.log(t).Entry(id)
		if !open {
			t.Fatal("the honest case: no enrolment")
		}
		hers := enrol.Token{Seed: sdk.NewSecret(seed.Expose()), Head: w.log(t).Head().Digest, CAPin: token.CAPin, Server: token.Server}
		if removed {
			w.remove(t, member)
		} else {
			w.ada(t).append(t, trust.GrantOp(seal.ID{}, member, trust.AllRoles&^trust.Admin))
		}
		w.unlawful(t, trust.LogSigner, func(l *trust.Log) []byte {
			return signedBy(t, l, l.NewChange(id, time.Now(), put(entry)), seal.EnrolSignKey(seed), keys.Sign)
		})
		w.remove(t, member)
		w.barred(t, trust.EnrolUsed, hers) // used or withdrawn: the honest server knows no such key
	}
}
