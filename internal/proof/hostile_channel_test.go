package proof

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/internal/installation"
	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

var channelRows = []manipulation{
	{
		row: 16, what: "same command frame twice", run: sameFrameTwice,
		events: []string{"command.refused replayed"},
	},
	{
		row: 17, what: "same frame after SIGKILL and restart of the agent", run: sameFrameAfterKill,
		events: []string{"command.refused replayed"}, reaches: "untouched; the run that was interrupted goes on",
	},
	{
		row: 18, what: "same frame after the journal was deleted", run: sameFrameWithoutJournal,
		events: []string{"command.refused replay_floor"},
	},
	{
		row: 19, what: "frame held back 15 minutes", run: frameHeldBack,
		events: []string{"command.refused expired"},
	},
	{
		row: 20, what: "frame of one agent delivered to another", run: frameOfAnotherAgent,
		events: []string{"command.refused seal_open", "command.refused wrong_agent"},
	},
	{
		row: 21, what: "frame's clear part edited", run: frameEdited,
		events: []string{"command.refused seal_open"},
	},
	{
		row: 22, what: "command made by the server", run: commandOfTheServer,
		events: []string{"command.refused signer_unknown"},
	},
	{
		row: 23, what: "command's body altered and sealed anew", run: commandAltered,
		events: []string{"command.refused signature_bad"},
	},
	{
		row: 24, what: "signature of a statement under a command", run: signatureOfAStatement,
		events: []string{"command.refused signature_bad"},
	},
	{
		row: 25, what: "command of another organisation on the same server", run: commandOfAnotherOrganisation,
		events: []string{"command.refused seal_open", "command.refused log_fork"},
	},
	{
		row: 26, what: "command with an extra field, correctly signed", run: commandWithExtraField,
		events: []string{"command.refused unknown_field"},
	},
	{
		row: 27, what: "command of a device without OPERATE", run: commandWithoutOperate,
		events: []string{"command.refused not_allowed"},
	},
	{
		row: 28, what: "agent's clock set back a day", run: clockSetBack,
		events: []string{"command.refused clock_back"},
	},
	{
		row: 60, what: "secrets-manager request used as channel challenge", run: requestAsChallenge,
		events: []string{"channel.refused malformed"},
	},
}

// rotated rotates an account by the command line, and gives the run.
func (w *hostileWorld) rotated(t *testing.T, a *installation.Agent, title string) (run string) {
	t.Helper()
	w.looked(t)
	o, err := w.Rotate(t.Context(), title, "--agent", a.Name)
	if err != nil {
		t.Fatalf("the honest case: rotate %s: %v: %+v: %s", title, err, o, a.Tail())
	}
	return o.RunID
}

// ranOnce asserts that a run made one value, however often its command came.
func (w *hostileWorld) ranOnce(t *testing.T, run string) {
	t.Helper()
	id, err := seal.ParseID(run)
	if err != nil {
		t.Fatal(err)
	}
	for _, phase := range []trustv1.Phase{trustv1.Phase_PHASE_STAGED, trustv1.Phase_PHASE_COMMITTED} {
		var n int
		w.read(t, "SELECT count(*) FROM result WHERE org = 1 AND run_id = ? AND phase = ?", []any{id.Bytes(), int64(phase)}, &n)
		if n != 1 {
			t.Errorf("the run has %d results %s, want 1", n, phase)
		}
	}
}

// replayed asserts that an agent takes a run's command no second time: in its log
// and in an event that names the run. repeat has it delivered again.
func (w *hostileWorld) replayed(t *testing.T, a *installation.Agent, run string, reason trust.Reason, repeat func()) {
	t.Helper()
	since := w.now(t, a)
	w.untouched(t, func() {
		repeat()
		w.logged(t, since, a, `"msg":"command refused"`, `"reason":"`+string(reason)+`"`)
		if e := w.told(t, since, "command.refused", reason); e.RunID != run {
			t.Errorf("the event names run %s, want %s", e.RunID, run)
		}
	})
	w.ranOnce(t, run)
}

func sameFrameTwice(t *testing.T, w *hostileWorld) {
	title, gw1 := w.account(t), stolen(t, w.agent).Entry
	run := w.rotated(t, w.agent, title)
	w.replayed(t, w.agent, run, trust.Replayed, func() {
		w.again(t, run)
		w.answers(t, gw1)
	})
	w.opensTarget(t, title)
}

func sameFrameAfterKill(t *testing.T, w *hostileWorld) {
	title := w.account(t)
	w.works(t, title)
	start := func() {
		if err := w.agent.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}

	// Mid-run: the run goes on, and no second one begins.
	armed := filepath.Join(w.agent.Fault, "after-apply")
	if err := os.WriteFile(armed, []byte("kill"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(armed); os.Remove(armed + ".hit") })
	o, err := w.Rotate(t.Context(), title, "--no-wait")
	if err != nil {
		t.Fatalf("rotate %s: %v: %+v", title, err, o)
	}
	select {
	case <-w.agent.Done():
	case <-time.After(patience):
		t.Fatalf("the agent was not killed: %s", w.agent.Tail())
	}
	since := w.now(t)
	w.again(t, o.RunID)
	start()
	w.logged(t, since, w.agent, `"msg":"taking up a command again"`, `"run":"`+o.RunID+`"`)
	w.logged(t, since, w.agent, `"msg":"command refused"`, `"reason":"replayed"`)
	if e := w.told(t, since, "command.refused", trust.Replayed); e.RunID != o.RunID {
		t.Errorf("the event names run %s, want %s", e.RunID, o.RunID)
	}
	if err := w.settled(t.Context(), title); err != nil {
		t.Fatal(err)
	}
	w.ranOnce(t, o.RunID)
	w.reached(t, w.gate)
	w.opensTarget(t, title)

	// After the run.
	w.agent.Kill()
	w.replayed(t, w.agent, o.RunID, trust.Replayed, func() {
		w.again(t, o.RunID)
		start()
	})
}

func sameFrameWithoutJournal(t *testing.T, w *hostileWorld) {
	a := w.another(t, installation.Pool)
	title := w.account(t)
	run := w.rotated(t, a, title)
	a.Stop()
	if err := os.Remove(filepath.Join(a.Dir, "data", "journal.db")); err != nil {
		t.Fatal(err)
	}
	w.replayed(t, a, run, trust.ReplayFloor, func() {
		w.again(t, run)
		if err := a.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

func frameHeldBack(t *testing.T, w *hostileWorld) {
	title, gw1 := w.account(t), stolen(t, w.agent).Entry
	w.works(t, title)
	frame := w.ada(t).seal(t, w.log(t), w.rotation(t, gw1, title))
	right := w.clock(t, w.agent, 15*time.Minute)
	w.spurnedLate(t, gw1, trust.Expired, frame)
	right()
	w.works(t, title)
}

func frameOfAnotherAgent(t *testing.T, w *hostileWorld) {
	b := w.another(t, installation.Pool)
	from, to := stolen(t, w.agent), stolen(t, b).Entry
	title := w.account(t)
	w.works(t, title)
	w.answers(t, to)
	ada, l := w.ada(t), w.log(t)

	w.spurned(t, b, to, trust.SealOpen, ada.seal(t, l, w.rotation(t, from.Entry, title)))

	// The one that it was for opens it, and seals it to the other.
	frame := ada.seal(t, l, w.rotation(t, from.Entry, title))
	signed, err := seal.OpenFrom(from.Keys.Seal, route(l.Org(), frame), frame.Sealed)
	if err != nil {
		t.Fatal(err)
	}
	frame.To = to.Bytes()
	w.spurned(t, b, to, trust.WrongAgent, w.reseal(t, l.Org(), frame, signed))
}

func frameEdited(t *testing.T, w *hostileWorld) {
	title, gw1 := w.account(t), stolen(t, w.agent).Entry
	w.works(t, title)
	other := seal.NewID()
	for _, edit := range []func(*trustv1.CommandFrame){
		func(f *trustv1.CommandFrame) { f.From = other.Bytes() },
		func(f *trustv1.CommandFrame) { f.To = other.Bytes() },
		func(f *trustv1.CommandFrame) { f.Id = other.Bytes() },
	} {
		frame := w.ada(t).seal(t, w.log(t), w.rotation(t, gw1, title))
		edit(frame)
		w.spurned(t, w.agent, gw1, trust.SealOpen, frame)
	}
}

func commandOfTheServer(t *testing.T, w *hostileWorld) {
	title, gw1 := w.account(t), stolen(t, w.agent).Entry
	w.works(t, title)
	server := &device{w: w, id: w.ada(t).id}
	server.keys.Sign = newSigner(t)
	w.spurned(t, w.agent, gw1, trust.SignerUnknown, server.seal(t, w.log(t), w.rotation(t, gw1, title)))
}

func commandAltered(t *testing.T, w *hostileWorld) {
	title, other, gw1 := w.account(t), w.account(t), stolen(t, w.agent)
	w.works(t, title)
	l := w.log(t)
	frame := w.ada(t).seal(t, l, w.rotation(t, gw1.Entry, title))
	raw, err := seal.OpenFrom(gw1.Keys.Seal, route(l.Org(), frame), frame.Sealed)
	if err != nil {
		t.Fatal(err)
	}
	var signed trustv1.Signed
	var body trustv1.Command
	if err := proto.Unmarshal(raw, &signed); err != nil {
		t.Fatal(err)
	}
	if err := proto.Unmarshal(signed.Body, &body); err != nil {
		t.Fatal(err)
	}
	aimed := w.rotation(t, gw1.Entry, other)
	body.Account, body.Pins = aimed.Account, aimed.Pins
	signed.Body = encode(t, &body)
	w.spurned(t, w.agent, gw1.Entry, trust.SignatureBad, w.reseal(t, l.Org(), frame, encode(t, &signed)))
}

func signatureOfAStatement(t *testing.T, w *hostileWorld) {
	title, gw1, ada := w.account(t), stolen(t, w.agent).Entry, w.ada(t)
	w.works(t, title)
	l := w.log(t)
	for _, kind := range []seal.Kind{seal.KindStatement, seal.KindResult, seal.KindLog} {
		c := w.rotation(t, gw1, title)
		frame := ada.seal(t, l, c)
		signed := envelope(t, ada.keys.Sign, kind, l.Org(), body(t, l, c))
		w.spurned(t, w.agent, gw1, trust.SignatureBad, w.reseal(t, l.Org(), frame, signed))
	}
}

// body is a command's, as a client encodes it that saw this log.
func body(t *testing.T, l *trust.Log, c *trustv1.Command) []byte {
	t.Helper()
	c = proto.CloneOf(c)
	c.V, c.LogEpoch, c.LogDigest = trust.Version, l.Head().Epoch, l.Head().Digest.Bytes()
	return encode(t, c)
}

func commandOfAnotherOrganisation(t *testing.T, w *hostileWorld) {
	title, gw1 := w.account(t), stolen(t, w.agent)
	w.works(t, title)
	mallory := w.other(t)

	// Mallory's organisation has an agent with the same id and the same seal key.
	public := w.publicKeys(t, gw1.Entry)
	l, pool := w.logOf(t, 2), seal.NewID()
	signed := mallory.sign(t, l,
		trust.PutOp(&trustv1.Entry{EntryId: pool.Bytes(), Kind: trustv1.EntryKind_ENTRY_KIND_POOL, Name: "dc1", V: trust.Version}),
		trust.PutOp(&trustv1.Entry{
			EntryId: gw1.Entry.Bytes(), Kind: trustv1.EntryKind_ENTRY_KIND_AGENT, Name: "gw1", OwnerId: pool.Bytes(), V: trust.Version,
			SignPub: gw1.Keys.SignPub(), KeysDigest: seal.Hash(public).Bytes(),
		}))
	if err := mallory.write(t, appends(signed)); err != nil {
		t.Fatal(err)
	}
	l = w.logOf(t, 2)
	w.spurned(t, w.agent, gw1.Entry, trust.SealOpen, mallory.seal(t, l, w.rotation(t, gw1.Entry, title)))

	frame := mallory.seal(t, l, w.rotation(t, gw1.Entry, title))
	inner, err := seal.OpenFrom(gw1.Keys.Seal, route(l.Org(), frame), frame.Sealed)
	if err != nil {
		t.Fatal(err)
	}
	w.spurned(t, w.agent, gw1.Entry, trust.LogFork, w.reseal(t, w.log(t).Org(), frame, inner))
}

func commandWithExtraField(t *testing.T, w *hostileWorld) {
	title, gw1, ada := w.account(t), stolen(t, w.agent).Entry, w.ada(t)
	w.works(t, title)
	l, c := w.log(t), w.rotation(t, gw1, title)
	frame := ada.seal(t, l, c)
	// Field 20 is room for a restriction that this agent does not know yet.
	newer := append(body(t, l, c), 0xa2, 0x01, 0x01, 'x')
	w.spurned(t, w.agent, gw1, trust.UnknownField, w.reseal(t, l.Org(), frame, envelope(t, ada.keys.Sign, seal.KindCommand, l.Org(), newer)))
}

func commandWithoutOperate(t *testing.T, w *hostileWorld) {
	title, gw1 := w.account(t), stolen(t, w.agent).Entry
	w.works(t, title)
	member, bob := w.member(t, trust.Read|trust.Edit|trust.Share)
	defer w.remove(t, member)
	w.spurned(t, w.agent, gw1, trust.NotAllowed, bob.seal(t, w.log(t), w.rotation(t, gw1, title)))

	// With the role the same command is taken.
	w.ada(t).append(t, trust.GrantOp(w.folder(t), member, trust.Read|trust.Operate))
	c, since := w.rotation(t, gw1, title), w.now(t)
	w.honestly(func() { w.slip(t, gw1, bob.seal(t, w.log(t), c)) })
	w.answers(t, gw1)
	w.logged(t, since, w.agent, `"msg":"run`, `"run":"`+seal.ID(c.RunId).String()+`"`)
}

func clockSetBack(t *testing.T, w *hostileWorld) {
	title, gw1 := w.account(t), stolen(t, w.agent).Entry
	w.works(t, title)
	w.answers(t, gw1) // it has the whole log now
	right := w.clock(t, w.agent, -24*time.Hour)
	w.spurnedLate(t, gw1, trust.ClockBack, w.ada(t).seal(t, w.log(t), w.rotation(t, gw1, title)))
	w.agent.Stop()
	if err := w.agent.StartUnwell(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.spurnedLate(t, gw1, trust.ClockBack, w.ada(t).seal(t, w.log(t), w.rotation(t, gw1, title)))
	right()
	w.works(t, title)
}

// A router that is none has the agent sign a request in its name, if it can.
func requestAsChallenge(t *testing.T, w *hostileWorld) {
	a := w.another(t, installation.Pool)
	id := stolen(t, a)
	w.answers(t, id.Entry)
	a.Stop()

	// What the router would like to have signed: a request for what the agent may read.
	var request []byte
	_ = w.forge(t, id.OrgID, id.Entry, func(r *http.Request) { request = signedPart(t, r) })
	if len(request) <= 32 {
		t.Fatalf("a request of %d bytes", len(request))
	}
	router := newFakeRouter(t, w)
	redirect(t, a, router.address)
	router.ask(request)
	since := w.now(t)
	w.untouched(t, func() {
		if err := a.Launch(); err != nil {
			t.Fatal(err)
		}
		w.logged(t, since, a, `"the channel to the server is down"`, `"reason":"malformed"`)
	})
	w.told(t, since, "channel.refused", trust.Malformed)
	select {
	case got := <-router.answers:
		t.Fatalf("the agent signed a challenge of %d bytes", len(got.challenge))
	default:
	}

	// A challenge of the right length it signs, but not as a request is signed.
	hash := seal.Hash(request)
	var got fakeAnswer
	w.untouched(t, func() {
		router.ask(hash[:])
		select {
		case got = <-router.answers:
		case <-time.After(patience):
			t.Fatalf("the agent answers no challenge: %s", a.Tail())
		}
	})
	signed := seal.ChannelInput(id.OrgID, seal.AgentClientID(id.OrgID, id.Entry), "127.0.0.1", [32]byte(got.challenge), got.exporter)
	if !seal.VerifyP256(&id.Keys.Device.PublicKey, signed, got.auth.Signature) {
		t.Fatal("the signature is not of the channel's input")
	}
	w.untouched(t, func() {
		err := w.forge(t, id.OrgID, id.Entry, func(r *http.Request) { r.Header.Set("Authorization", "Signature "+ksm.Std(got.auth.Signature)) })
		if refusedWith(err) != ksm.CodeAccessDenied {
			t.Errorf("a channel's signature under a request: %v", err)
		}
		err = w.forge(t, id.OrgID, id.Entry, func(r *http.Request) { replace(r, signed, got.auth.Signature) })
		if refusedWith(err) != ksm.CodeBadRequest {
			t.Errorf("what the channel signed as a request: %v", err)
		}
	})
}
