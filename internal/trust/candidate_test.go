package trust

import (
	"slices"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/seal"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// The steps of keys.md 4.4.
func TestCheckMandate(t *testing.T) {
	base := newWorld(t)
	base.later(2 * time.Hour)
	bob := base.bob.device
	account, resource := base.open(bob, base.account()), base.open(bob, base.resource())
	const staged, committed = trustv1.Phase_PHASE_STAGED, trustv1.Phase_PHASE_COMMITTED
	ago := func(d time.Duration) []time.Time { return []time.Time{base.now.Add(-d)} }
	at := func(w *world, by party, phase trustv1.Phase, digest byte, ago time.Duration) []byte {
		r := w.result(phase, by, 1, seal.Digest{digest})
		r.Time = base.now.Add(-ago).UnixMilli()
		return w.signResult(by, r)
	}
	for _, row := range []struct {
		name     string
		given    func(w *world)
		me       party
		edit     func(a *trustv1.Account)
		activity Activity
		results  func(w *world) [][]byte
		want     Reason
	}{
		{"honest", nil, base.one, nil, Activity{}, nil, ""},
		{"0 stale log", func(w *world) { w.later(181 * day) }, base.one, nil, Activity{}, nil, LogStale},
		{"1 an agent of another pool", nil, base.three, nil, Activity{}, nil, WrongPool},
		{"1 a device", nil, base.bob.device, nil, Activity{}, nil, WrongPool},
		{"1 another resource than the account's", nil, base.one, func(a *trustv1.Account) { a.Resource = base.ref(uidM).Proto() }, Activity{}, nil, NotLinked},
		{"2 no mandate", nil, base.one, func(a *trustv1.Account) { a.Mandate = nil }, Activity{}, nil, MandateOff},
		{"2 switched off", nil, base.one, func(a *trustv1.Account) { a.Mandate.Enabled = false }, Activity{}, nil, MandateOff},
		{"2 past its time", func(w *world) { w.later(101 * day) }, base.one, nil, Activity{}, nil, MandateExpired},
		{"2 its signer may not operate any more", func(w *world) { w.do(w.alice.device, GrantOp(w.folder, w.bob.member, Read|Edit)) }, base.one, nil, Activity{}, nil, NotAllowed},
		{"3 a commit of mine within the interval", nil, base.one, nil, Activity{Committed: ago(time.Minute)}, nil, TooOften},
		{"3 a commit of mine before it", nil, base.one, nil, Activity{Committed: ago(61 * time.Minute)}, nil, ""},
		{"3 a commit of another agent of the pool", nil, base.one, nil, Activity{}, func(w *world) [][]byte {
			return [][]byte{at(w, w.two, committed, 1, time.Minute)}
		}, TooOften},
		{"3 a commit of an agent of another pool", nil, base.one, nil, Activity{}, func(w *world) [][]byte {
			return [][]byte{at(w, w.three, committed, 1, time.Minute)}
		}, ""},
		{"3 an old commit", nil, base.one, nil, Activity{}, func(w *world) [][]byte {
			return [][]byte{at(w, w.two, committed, 1, 61*time.Minute)}
		}, ""},
		{"3 two new candidates", nil, base.one, nil, Activity{Staged: ago(time.Minute)}, func(w *world) [][]byte {
			return [][]byte{at(w, w.two, staged, 1, time.Minute)}
		}, ""},
		{"3 three new candidates", nil, base.one, nil, Activity{Staged: append(ago(time.Minute), ago(2*time.Minute)...)}, func(w *world) [][]byte {
			return [][]byte{at(w, w.two, staged, 1, time.Minute)}
		}, TooOften},
		{"3 my own candidates, by journal and results, count once", nil, base.one, nil, Activity{Staged: append(ago(time.Minute), ago(2*time.Minute)...)}, func(w *world) [][]byte {
			return [][]byte{at(w, w.one, staged, 1, time.Minute), at(w, w.one, staged, 2, 2*time.Minute)}
		}, ""},
		{"3 my clock was set back by a day", nil, base.one, nil, Activity{Greatest: base.now.Add(day)}, nil, ClockBack},
		{"3 my clock is back within the skew", nil, base.one, nil, Activity{Greatest: base.now.Add(Skew)}, nil, ""},
		{"3 what a clock noted that was ahead", nil, base.one, nil, Activity{Starts: ago(-day), Committed: ago(-day), Staged: slices.Repeat(ago(-day), 3)}, func(w *world) [][]byte {
			return [][]byte{at(w, w.two, committed, 1, -day)}
		}, ""},
		{"3 a commit within the skew", nil, base.one, nil, Activity{Committed: ago(-Skew)}, nil, TooOften},
		{"3 a start 29 s ago", nil, base.one, nil, Activity{Starts: ago(29 * time.Second)}, nil, TooOften},
		{"3 a start 30 s ago", nil, base.one, nil, Activity{Starts: ago(30 * time.Second)}, nil, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := base.fork(t)
			a := account
			if row.edit != nil {
				s := w.account()
				row.edit(s.GetAccount())
				a = w.open(bob, s)
			}
			if row.given != nil {
				row.given(w)
			}
			var results [][]byte
			if row.results != nil {
				results = row.results(w)
			}
			wantReason(t, CheckMandate(w.log, row.me.id, a, resource, row.activity, results, w.now), row.want)
		})
	}
}

// A verify, which needs no mandate.
func TestCheckStarts(t *testing.T) {
	ago := func(d time.Duration) []time.Time { return []time.Time{start.Add(-d)} }
	for _, row := range []struct {
		name     string
		activity Activity
		want     Reason
	}{
		{"none", Activity{}, ""},
		{"29 s ago", Activity{Starts: ago(29 * time.Second)}, TooOften},
		{"30 s ago", Activity{Starts: ago(30 * time.Second)}, ""},
		{"by a clock that was ahead", Activity{Starts: ago(-day)}, ""},
		{"my clock was set back", Activity{Greatest: start.Add(day)}, ClockBack},
	} {
		t.Run(row.name, func(t *testing.T) { wantReason(t, CheckStarts(Ref{}, row.activity, start), row.want) })
	}
}

// The steps of keys.md 4.5. Agent One staged; agent Two takes over.
func TestCheckCandidate(t *testing.T) {
	base := newWorld(t)
	bob := base.bob.device
	account, resource := base.open(bob, base.account()), base.open(bob, base.resource())
	const staged, committed = trustv1.Phase_PHASE_STAGED, trustv1.Phase_PHASE_COMMITTED
	sealed := SealData(keyA, []byte(`{"v":3}`))
	data := seal.Hash(sealed)
	byCommand := func(w *world, f func(*trustv1.Command)) ([]byte, seal.Digest) {
		c := w.rotate(account, resource)
		if f != nil {
			f(c)
		}
		signed, digest := w.signCommand(bob, c)
		return SealAuthority(w.org, keyA, uidA, Authority{Command: signed}), digest
	}
	// honest is a candidate that One staged under Bob's command.
	honest := func(w *world, f func(*trustv1.Result)) ServedCandidate {
		authority, cause := byCommand(w, nil)
		r := w.result(staged, w.one, 3, data)
		r.Cause = cause.Bytes()
		if f != nil {
			f(r)
		}
		by := w.one
		if string(r.By) == string(w.three.id.Bytes()) {
			by = w.three
		}
		return ServedCandidate{Data: sealed, Result: w.signResult(by, r), Authority: authority}
	}
	byMandate := func(w *world) ServedCandidate {
		c := honest(w, func(r *trustv1.Result) { r.Cause = account.Digest.Bytes() })
		c.Authority = SealAuthority(w.org, keyA, uidA, Authority{Mandate: account.Digest})
		return c
	}
	heal := func(w *world, by party, seq uint64, d seal.Digest) ServedCandidate {
		c := honest(w, func(r *trustv1.Result) { r.ValueSeq = 7 })
		c.Authority = SealAuthority(w.org, keyA, uidA, Authority{Committed: w.signResult(by, w.result(committed, by, seq, d))})
		return c
	}
	for _, row := range []struct {
		name    string
		make    func(w *world, m *volatile) ServedCandidate
		want    Reason
		noApply Reason
	}{
		{"by a command", func(w *world, m *volatile) ServedCandidate { return honest(w, nil) }, "", ""},
		{"by a mandate", func(w *world, m *volatile) ServedCandidate { return byMandate(w) }, "", ""},
		{"1 staged an hour after its command", func(w *world, m *volatile) ServedCandidate {
			c := honest(w, func(r *trustv1.Result) { r.Time = w.now.Add(StagingTime + Skew).UnixMilli() })
			w.later(StagingTime + Skew)
			return c
		}, "", ""},
		{"1 staged later", func(w *world, m *volatile) ServedCandidate {
			c := honest(w, func(r *trustv1.Result) { r.Time = w.now.Add(StagingTime + Skew + time.Second).UnixMilli() })
			w.later(StagingTime + Skew + time.Second)
			return c
		}, "", CandidateUnauthorised},
		{"1 staged before its command", func(w *world, m *volatile) ServedCandidate {
			return honest(w, func(r *trustv1.Result) { r.Time = w.now.Add(-Skew - time.Second).UnixMilli() })
		}, "", CandidateUnauthorised},
		{"1 staged in the future", func(w *world, m *volatile) ServedCandidate {
			return honest(w, func(r *trustv1.Result) { r.Time = w.now.Add(Skew + time.Second).UnixMilli() })
		}, "", CandidateUnauthorised},
		{"0 stale log", func(w *world, m *volatile) ServedCandidate {
			c := honest(w, nil)
			w.later(181 * day)
			return c
		}, LogStale, ""},
		{"1 no result", func(w *world, m *volatile) ServedCandidate { return ServedCandidate{Data: sealed} }, CandidateUnattested, ""},
		{"1 a result of another phase", func(w *world, m *volatile) ServedCandidate {
			return honest(w, func(r *trustv1.Result) { r.Phase = committed })
		}, CandidateUnattested, ""},
		{"1 by an agent of another pool", func(w *world, m *volatile) ServedCandidate {
			return honest(w, func(r *trustv1.Result) { r.By = w.three.id.Bytes() })
		}, CandidateUnattested, ""},
		{"1 of another account", func(w *world, m *volatile) ServedCandidate {
			return honest(w, func(r *trustv1.Result) { r.Account = w.ref(uidM).Proto() })
		}, CandidateUnattested, ""},
		{"1 other data", func(w *world, m *volatile) ServedCandidate {
			c := honest(w, nil)
			c.Data = SealData(keyA, []byte(`{"v":1}`))
			return c
		}, CandidateUnattested, ""},
		{"1 under another key", func(w *world, m *volatile) ServedCandidate {
			other := SealData(keyM, []byte(`{}`))
			c := honest(w, func(r *trustv1.Result) { r.DataDigest = seal.Hash(other).Bytes() })
			c.Data = other
			return c
		}, CandidateUnattested, ""},
		{"1 its agent removed", func(w *world, m *volatile) ServedCandidate {
			c := honest(w, nil)
			w.do(w.alice.device, RemoveOp(w.one.id))
			return c
		}, CandidateUnattested, ""},
		{"1 no authority", func(w *world, m *volatile) ServedCandidate {
			c := honest(w, nil)
			c.Authority = nil
			return c
		}, "", CandidateUnauthorised},
		{"1 authority of another record", func(w *world, m *volatile) ServedCandidate {
			c := honest(w, nil)
			c.Authority = SealAuthority(w.org, keyM, uidM, Authority{Mandate: account.Digest})
			return c
		}, "", CandidateUnauthorised},
		{"1 command for another account", func(w *world, m *volatile) ServedCandidate {
			c := honest(w, nil)
			c.Authority, _ = byCommand(w, func(c *trustv1.Command) { c.Account, c.Pins[0].Record = w.ref(uidM).Proto(), w.ref(uidM).Proto() })
			return c
		}, "", CandidateUnauthorised},
		{"1 another command than the result's cause", func(w *world, m *volatile) ServedCandidate {
			c := honest(w, nil)
			c.Authority, _ = byCommand(w, func(c *trustv1.Command) { c.Id = id(131).Bytes() })
			return c
		}, "", CandidateUnauthorised},
		{"1 command to another agent", func(w *world, m *volatile) ServedCandidate {
			authority, cause := byCommand(w, func(c *trustv1.Command) { c.AgentId = w.two.id.Bytes() })
			c := honest(w, func(r *trustv1.Result) { r.Cause = cause.Bytes() })
			c.Authority = authority
			return c
		}, "", CandidateUnauthorised},
		{"1 a command to verify", func(w *world, m *volatile) ServedCandidate {
			authority, cause := byCommand(w, func(c *trustv1.Command) { c.Action = trustv1.Action_ACTION_VERIFY })
			c := honest(w, func(r *trustv1.Result) { r.Cause = cause.Bytes() })
			c.Authority = authority
			return c
		}, "", CandidateUnauthorised},
		{"1 its commander removed", func(w *world, m *volatile) ServedCandidate {
			c := honest(w, nil)
			w.do(w.alice.device, RemoveOp(bob.id))
			return c
		}, "", CandidateUnauthorised},
		{"1 its commander may not operate any more", func(w *world, m *volatile) ServedCandidate {
			c := honest(w, nil)
			w.do(w.alice.device, GrantOp(w.folder, w.bob.member, Read|Edit))
			return c
		}, "", CandidateUnauthorised},
		{"1 command long past its own time", func(w *world, m *volatile) ServedCandidate {
			c := honest(w, nil)
			w.later(time.Hour)
			return c
		}, "", ""},
		{"1 mandate past its time", func(w *world, m *volatile) ServedCandidate {
			c := byMandate(w)
			w.later(101 * day)
			return c
		}, "", CandidateUnauthorised},
		{"1 heals a commit of its own", func(w *world, m *volatile) ServedCandidate { return heal(w, w.one, 6, data) }, "", ValueRollback},
		{"1 heals a commit of another agent", func(w *world, m *volatile) ServedCandidate { return heal(w, w.two, 6, data) }, CandidateRollback, ""},
		{"1 heals it under another key", func(w *world, m *volatile) ServedCandidate { return heal(w, w.one, 6, seal.Digest{1}) }, "", ValueRollback},
		{"1 heals with a gap", func(w *world, m *volatile) ServedCandidate { return heal(w, w.one, 5, data) }, "", ValueRollback},
		{"1 heals a commit that is not older", func(w *world, m *volatile) ServedCandidate { return heal(w, w.one, 7, data) }, CandidateRollback, ""},
		{"2 not the next number", func(w *world, m *volatile) ServedCandidate {
			return honest(w, func(r *trustv1.Result) { r.ValueSeq = 4 })
		}, CandidateRollback, ""},
		{"2 an older candidate", func(w *world, m *volatile) ServedCandidate {
			_ = m.RememberValue(w.ref(uidA), ValueSeen{Seq: 3})
			return honest(w, nil)
		}, CandidateRollback, ""},
		{"2 settled already", func(w *world, m *volatile) ServedCandidate {
			m.Settle(w.ref(uidA), data)
			return honest(w, nil)
		}, CandidateRollback, ""},
		{"3 four hours old", func(w *world, m *volatile) ServedCandidate {
			c := honest(w, nil)
			w.later(CandidateAge)
			return c
		}, "", CandidateExpired},
		{"3 a minute less", func(w *world, m *volatile) ServedCandidate {
			c := honest(w, nil)
			w.later(CandidateAge - time.Minute)
			return c
		}, "", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			w, m := base.fork(t), &volatile{}
			c := row.make(w, m)
			rec := &Record{Content{Ref: w.ref(uidA), Key: keyA}, account}
			got, err := CheckCandidate(w.log, m, w.two.id, rec, w.p, &Value{Seq: 2}, c, w.now)
			wantReason(t, err, row.want)
			if row.want != "" {
				return
			}
			wantReason(t, got.NoApply, row.noApply)
			if string(got.Data) != `{"v":3}` || got.DataDigest != data {
				t.Errorf("%+v", got)
			}
		})
	}

	t.Run("my own has no age", func(t *testing.T) {
		w := base.fork(t)
		c := honest(w, nil)
		w.later(10 * CandidateAge)
		rec := &Record{Content{Ref: w.ref(uidA), Key: keyA}, account}
		got, err := CheckCandidate(w.log, &volatile{}, w.one.id, rec, w.p, &Value{Seq: 2}, c, w.now)
		wantReason(t, err, "")
		wantReason(t, got.NoApply, "")
	})

	t.Run("the first value of an account", func(t *testing.T) {
		w := base.fork(t)
		c := honest(w, func(r *trustv1.Result) { r.ValueSeq = 1 })
		rec := &Record{Content{Ref: w.ref(uidA), Key: keyA}, account}
		_, err := CheckCandidate(w.log, &volatile{}, w.two.id, rec, w.p, nil, c, w.now)
		wantReason(t, err, "")
	})
}

// Whose "abandoned" counts: an agent of the pool, or a person with EDIT and OPERATE.
func TestWhoMayAbandon(t *testing.T) {
	w := newWorld(t)
	w.do(w.alice.device, GrantOp(w.folder, w.dave.member, Read|Edit))
	for _, row := range []struct {
		by   party
		want Reason
	}{
		{w.one, ""},
		{w.three, NotAllowed},
		{w.bob.device, ""},
		{w.dave.device, NotAllowed},
		{w.carol.device, NotAllowed},
	} {
		r, err := OpenResult(w.log, w.signResult(row.by, w.result(trustv1.Phase_PHASE_ABANDONED, row.by, 1, seal.Digest{1})))
		if err != nil {
			t.Fatal(err)
		}
		wantReason(t, CheckWord(w.log, r, w.ref(uidA), w.p), row.want)
	}
}

// The steps of keys.md 4.6, 5.
func TestCheckResult(t *testing.T) {
	base := newWorld(t)
	const finished = trustv1.Phase_PHASE_FINISHED
	cause := seal.Digest{7}
	honest := func(by party, f func(*trustv1.Result)) []byte {
		r := base.result(finished, by, 0, seal.Digest{})
		r.Cause, r.DataDigest = cause.Bytes(), nil
		if f != nil {
			f(r)
		}
		return base.signResult(by, r)
	}
	want := Expect{Agent: base.one.id, Cause: cause, RunID: id(120), Account: base.ref(uidA)}
	pool := Expect{Agent: base.one.id, Pool: base.p, Cause: cause}
	altered := honest(base.one, nil)
	altered[len(altered)-1] ^= 1
	for _, row := range []struct {
		name   string
		signed []byte
		expect Expect
		want   Reason
	}{
		{"from the agent that the command names", honest(base.one, nil), want, ""},
		{"from another agent", honest(base.two, nil), want, ResultForged},
		{"from another agent of the pool that may finish it", honest(base.two, nil), pool, ""},
		{"from an agent of another pool", honest(base.three, nil), pool, ResultForged},
		{"from nobody in particular expected", honest(base.one, nil), Expect{}, ResultForged},
		{"from a device", honest(base.bob.device, nil), Expect{Agent: base.bob.device.id, Cause: cause}, ResultForged},
		{"from nobody", honest(newParty(t, 99, false), nil), want, ResultForged},
		{"in another's name", honest(base.two, func(r *trustv1.Result) { r.By = base.one.id.Bytes() }), want, ResultForged},
		{"altered", altered, want, ResultForged},
		{"not a result", []byte{0xff}, want, ResultForged},
		{"answers another command", honest(base.one, func(r *trustv1.Result) { r.Cause = make([]byte, 32) }), want, ResultForged},
		{"of another run", honest(base.one, func(r *trustv1.Result) { r.RunId = id(121).Bytes() }), want, ResultForged},
		{"of another account", honest(base.one, func(r *trustv1.Result) { r.Account = base.ref(uidM).Proto() }), want, ResultForged},
		{"newer format", honest(base.one, func(r *trustv1.Result) { r.ProtoReflect().SetUnknown([]byte{0xa0, 0x01, 1}) }), want, UnknownField},
		{"its signer saw a newer log", honest(base.one, func(r *trustv1.Result) { r.LogEpoch, r.LogDigest = 300, make([]byte, 32) }), want, LogGap},
		{"its signer saw another log", honest(base.one, func(r *trustv1.Result) { r.LogEpoch, r.LogDigest = 2, make([]byte, 32) }), want, LogFork},
	} {
		t.Run(row.name, func(t *testing.T) {
			r, err := CheckResult(base.log, row.signed, row.expect)
			wantReason(t, err, row.want)
			if (r == nil) != (row.want != "") {
				t.Errorf("result %v with reason %q", r, row.want)
			}
		})
	}
}

func TestRepliesAndDetails(t *testing.T) {
	w := newWorld(t)
	bob := w.bob.device
	cmd := id(130)
	sealed, err := SealReply(w.log, w.one.id, bob.id, bob.keys, cmd, &trustv1.Detail{Text: "it answers"})
	if err != nil {
		t.Fatal(err)
	}
	reply := func(by party, detail []byte) *Result {
		signed, _, err := SignResult(w.log, by.sign, &trustv1.Result{
			Phase: trustv1.Phase_PHASE_REPLIED, By: by.id.Bytes(), Time: w.now.UnixMilli(), DetailDigest: seal.Hash(detail).Bytes(),
		})
		if err != nil {
			t.Fatal(err)
		}
		r, err := OpenResult(w.log, signed)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	d, err := OpenReply(w.log, reply(w.one, sealed), bob.id, bob.seal, cmd, sealed)
	if err != nil || d.Text != "it answers" {
		t.Errorf("%v, %v", d, err)
	}
	_, err = OpenReply(w.log, reply(w.one, nil), bob.id, bob.seal, cmd, sealed)
	wantReason(t, err, ResultForged)
	_, err = OpenReply(w.log, reply(w.two, sealed), bob.id, bob.seal, cmd, sealed)
	wantReason(t, err, ResultForged)
	_, err = OpenReply(w.log, reply(w.one, sealed), bob.id, bob.seal, id(131), sealed)
	wantReason(t, err, ResultForged)
	_, err = SealReply(w.log, w.one.id, bob.id, w.carol.device.keys, cmd, &trustv1.Detail{})
	wantReason(t, err, RecipientUnverified)

	blob, err := SealDetail(w.org, keyA, uidA, &trustv1.Detail{Text: "locked out"})
	if err != nil {
		t.Fatal(err)
	}
	r := w.result(trustv1.Phase_PHASE_FINISHED, w.one, 0, seal.Digest{})
	r.DetailDigest = seal.Hash(blob).Bytes()
	res, err := OpenResult(w.log, w.signResult(w.one, r))
	if err != nil {
		t.Fatal(err)
	}
	d, err = OpenDetail(w.org, keyA, res, blob)
	if err != nil || d.Text != "locked out" {
		t.Errorf("%v, %v", d, err)
	}
	_, err = OpenDetail(w.org, keyM, res, blob)
	wantReason(t, err, ResultForged)
	_, err = OpenDetail(w.org, keyA, res, append(blob, 0))
	wantReason(t, err, ResultForged)
}
