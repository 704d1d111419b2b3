package trust

import (
	"testing"

	"github.com/rotunda-pam/rotunda/internal/seal"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// 4.2 step 7, and 3.4 on whose word counts.
func TestCheckValue(t *testing.T) {
	base := newWorld(t)
	const committed, edited = trustv1.Phase_PHASE_COMMITTED, trustv1.Phase_PHASE_EDITED
	sealed := SealData(keyA, []byte(`{"v":2}`))
	data, older := seal.Hash(sealed), seal.Digest{1}
	for _, row := range []struct {
		name    string
		seen    ValueSeen
		given   func(w *world)
		results func(w *world) [][]byte
		want    Reason
		seq     uint64
	}{
		{"committed by an agent of the pool", ValueSeen{}, nil, func(w *world) [][]byte {
			return [][]byte{w.signResult(w.one, w.result(committed, w.one, 2, data))}
		}, "", 2},
		{"edited by an editor", ValueSeen{}, nil, func(w *world) [][]byte {
			return [][]byte{w.signResult(w.bob.device, w.result(edited, w.bob.device, 2, data))}
		}, "", 2},
		{"the newest of several", ValueSeen{}, nil, func(w *world) [][]byte {
			return [][]byte{
				w.signResult(w.one, w.result(committed, w.one, 1, older)),
				w.signResult(w.two, w.result(committed, w.two, 2, data)),
			}
		}, "", 2},
		{"as remembered", ValueSeen{Seq: 2, Digest: data}, nil, func(w *world) [][]byte {
			return [][]byte{w.signResult(w.one, w.result(committed, w.one, 2, data))}
		}, "", 2},
		{"no result at all", ValueSeen{}, nil, func(w *world) [][]byte { return nil }, ValueUnattested, 0},
		{"committed by an agent of another pool", ValueSeen{}, nil, func(w *world) [][]byte {
			return [][]byte{w.signResult(w.three, w.result(committed, w.three, 2, data))}
		}, ValueUnattested, 0},
		{"committed by a device", ValueSeen{}, nil, func(w *world) [][]byte {
			return [][]byte{w.signResult(w.bob.device, w.result(committed, w.bob.device, 2, data))}
		}, ValueUnattested, 0},
		{"edited by a reader", ValueSeen{}, nil, func(w *world) [][]byte {
			return [][]byte{w.signResult(w.carol.device, w.result(edited, w.carol.device, 2, data))}
		}, ValueUnattested, 0},
		{"edited by an agent", ValueSeen{}, nil, func(w *world) [][]byte {
			return [][]byte{w.signResult(w.one, w.result(edited, w.one, 2, data))}
		}, ValueUnattested, 0},
		{"only staged", ValueSeen{}, nil, func(w *world) [][]byte {
			return [][]byte{w.signResult(w.one, w.result(trustv1.Phase_PHASE_STAGED, w.one, 2, data))}
		}, ValueUnattested, 0},
		{"committed for another account", ValueSeen{}, nil, func(w *world) [][]byte {
			r := w.result(committed, w.one, 2, data)
			r.Account = w.ref(uidM).Proto()
			return [][]byte{w.signResult(w.one, r)}
		}, ValueUnattested, 0},
		{"in another's name", ValueSeen{}, nil, func(w *world) [][]byte {
			return [][]byte{w.signResult(w.three, w.result(committed, w.one, 2, data))}
		}, ValueUnattested, 0},
		{"the agent was removed", ValueSeen{}, func(w *world) { w.do(w.alice.device, RemoveOp(w.one.id)) }, func(w *world) [][]byte {
			return [][]byte{w.signResult(w.one, w.result(committed, w.one, 2, data))}
		}, ValueUnattested, 0},
		{"a foreign client wrote after it", ValueSeen{}, nil, func(w *world) [][]byte {
			return [][]byte{w.signResult(w.one, w.result(committed, w.one, 2, older))}
		}, ValueUnattested, 2},
		{"the newest result with the older data, remembered", ValueSeen{Seq: 3, Digest: seal.Digest{3}, Former: data}, nil, func(w *world) [][]byte {
			return [][]byte{w.signResult(w.one, w.result(committed, w.one, 3, seal.Digest{3}))}
		}, ValueRollback, 3},
		{"a newer result with the remembered data", ValueSeen{Seq: 2, Digest: data}, nil, func(w *world) [][]byte {
			return [][]byte{w.signResult(w.one, w.result(committed, w.one, 3, seal.Digest{3}))}
		}, ValueRollback, 3},
		{"older data and older result", ValueSeen{Seq: 3, Digest: seal.Digest{3}}, nil, func(w *world) [][]byte {
			return [][]byte{w.signResult(w.one, w.result(committed, w.one, 2, data))}
		}, ValueRollback, 2},
		{"older data and no result", ValueSeen{Seq: 3, Digest: seal.Digest{3}, Former: data}, nil, func(w *world) [][]byte { return nil }, ValueRollback, 0},
		{"two values of one number", ValueSeen{Seq: 2, Digest: seal.Digest{3}}, nil, func(w *world) [][]byte {
			return [][]byte{w.signResult(w.one, w.result(committed, w.one, 2, data))}
		}, ValueFork, 2},
		{"edited, the secret as it was", ValueSeen{Seq: 2, Digest: older, Set: 2}, nil, func(w *world) [][]byte {
			return [][]byte{w.signResult(w.bob.device, w.same(w.result(edited, w.bob.device, 3, data), 2))}
		}, "", 3},
		{"edited, the secret as it was before the one remembered", ValueSeen{Seq: 2, Digest: older, Set: 2}, nil, func(w *world) [][]byte {
			return [][]byte{w.signResult(w.bob.device, w.same(w.result(edited, w.bob.device, 3, data), 1))}
		}, ValueRollback, 3},
		{"the same, of one number", ValueSeen{Seq: 2, Digest: older, Set: 2}, nil, func(w *world) [][]byte {
			return [][]byte{w.signResult(w.bob.device, w.same(w.result(edited, w.bob.device, 2, data), 1))}
		}, ValueRollback, 2},
		{"committed, the secret as it was", ValueSeen{}, nil, func(w *world) [][]byte {
			return [][]byte{w.signResult(w.one, w.same(w.result(committed, w.one, 3, data), 2))}
		}, ValueUnattested, 0},
		{"edited, the secret newer than its attestation", ValueSeen{}, nil, func(w *world) [][]byte {
			return [][]byte{w.signResult(w.bob.device, w.same(w.result(edited, w.bob.device, 3, data), 3))}
		}, ValueUnattested, 0},
		{"committed, the secret made earlier", ValueSeen{}, nil, func(w *world) [][]byte {
			return [][]byte{w.signResult(w.one, w.made(w.result(committed, w.one, 3, data), 2))}
		}, "", 3},
		{"committed, the secret made later", ValueSeen{}, nil, func(w *world) [][]byte {
			return [][]byte{w.signResult(w.one, w.made(w.result(committed, w.one, 3, data), w.log.Head().Epoch))}
		}, ValueUnattested, 0},
		{"edited, the secret made earlier", ValueSeen{}, nil, func(w *world) [][]byte {
			return [][]byte{w.signResult(w.bob.device, w.made(w.result(edited, w.bob.device, 3, data), 2))}
		}, ValueUnattested, 0},
		{"a number out of reach", ValueSeen{Seq: 1, Digest: older}, nil, func(w *world) [][]byte {
			return [][]byte{w.signResult(w.one, w.result(committed, w.one, 2+MaxFloorRaise, data))}
		}, ValueUnattested, 0},
		{"the signer saw a newer log", ValueSeen{}, nil, func(w *world) [][]byte {
			r := w.result(committed, w.one, 2, data)
			r.LogEpoch, r.LogDigest = 300, make([]byte, 32)
			return [][]byte{w.signResult(w.one, r)}
		}, LogGap, 0},
		{"the log is stale", ValueSeen{}, func(w *world) { w.later(181 * day) }, func(w *world) [][]byte {
			return [][]byte{w.signResult(w.one, w.result(committed, w.one, 2, data))}
		}, LogStale, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			w, m := base.fork(t), &volatile{}
			if row.given != nil {
				row.given(w)
			}
			if err := m.RememberValue(w.ref(uidA), row.seen); err != nil {
				t.Fatal(err)
			}
			results := row.results(w)
			served := w.serve(uidA, keyA, "", nil)
			served.Data, served.Recent = sealed, results
			if len(results) > 0 {
				served.Attestation = results[0]
			}
			c, err := OpenContent(w.log, w.folderKey, served)
			if err != nil {
				t.Fatal(err)
			}
			v, err := CheckValue(w.log, m, c, served, w.p, w.now)
			wantReason(t, err, row.want)
			if (v == nil) != (row.seq == 0) || v != nil && v.Seq != row.seq {
				t.Errorf("value %+v, want number %d", v, row.seq)
			}
			seen, _ := m.Value(w.ref(uidA))
			if row.want == "" && (seen.Seq != row.seq || seen.Digest != data) || row.want != "" && seen != row.seen {
				t.Errorf("remembered %+v", seen)
			}
		})
	}

	t.Run("a secret's age is remembered", func(t *testing.T) {
		w, m := base.fork(t), &volatile{}
		for n, want := range map[uint64]uint64{2: 2, 3: 2} {
			r := w.result(edited, w.bob.device, n, data)
			if n == 3 {
				r = w.same(r, 2)
			}
			served := w.serve(uidA, keyA, "", nil)
			served.Data, served.Attestation = sealed, w.signResult(w.bob.device, r)
			c, err := OpenContent(w.log, w.folderKey, served)
			if err != nil {
				t.Fatal(err)
			}
			m.values = nil
			if _, err := CheckValue(w.log, m, c, served, w.p, w.now); err != nil {
				t.Fatal(err)
			}
			if seen, _ := m.Value(w.ref(uidA)); seen.Set != want {
				t.Errorf("value %d: remembered %+v, want the secret of value %d", n, seen, want)
			}
		}
	})

	t.Run("each pool's agents by what was remembered of theirs", func(t *testing.T) {
		w, m := base.fork(t), &volatile{}
		for _, row := range []struct {
			agent party
			seq   uint64
			want  Reason
		}{
			{w.one, 2, ""}, {w.three, 1 << 40, ValueUnattested}, {w.three, MaxFloorRaise, ""}, {w.two, 2, ""}, {w.one, 3, ""}, {w.two, 2, ValueRollback}, {w.three, 4, ValueRollback}, {w.one, 3, ""},
		} {
			served := w.serve(uidA, keyA, "", nil)
			served.Data, served.Attestation = sealed, w.signResult(row.agent, w.result(committed, row.agent, row.seq, data))
			c, err := OpenContent(w.log, w.folderKey, served)
			if err != nil {
				t.Fatal(err)
			}
			_, err = CheckValue(w.log, m, c, served, seal.ID{}, w.now)
			if ReasonOf(err) != row.want {
				t.Errorf("value %d: %v, want %q", row.seq, err, row.want)
			}
		}
	})

	// What was accepted by an agent's word while the pool was unknown holds against a
	// person's, and against that pool's agents when it is known; against others it does not.
	t.Run("an agent's value that was accepted while the pool was unknown", func(t *testing.T) {
		newer := SealData(keyA, []byte(`{"v":3}`))
		for name, row := range map[string]struct {
			agent party // whose value 3 it was
			by    party // whose value 2 is served then
			known bool
			want  Reason
		}{
			"back to a person's":             {base.one, base.bob.device, false, ValueRollback},
			"back to a person's, known now":  {base.one, base.bob.device, true, ValueRollback},
			"back to an agent's":             {base.one, base.two, false, ValueRollback},
			"back to an agent's, known now":  {base.one, base.two, true, ValueRollback},
			"another pool's, known now":      {base.three, base.two, true, ""},
			"another pool's":                 {base.three, base.two, false, ""},
			"another pool's, a person's now": {base.three, base.bob.device, true, ""},
		} {
			w, m := base.fork(t), &volatile{}
			check := func(box []byte, by party, phase trustv1.Phase, seq uint64, pool seal.ID, want Reason) {
				t.Helper()
				served := w.serve(uidA, keyA, "", nil)
				served.Data, served.Attestation = box, w.signResult(by, w.result(phase, by, seq, seal.Hash(box)))
				c, err := OpenContent(w.log, w.folderKey, served)
				if err != nil {
					t.Fatal(err)
				}
				if _, err = CheckValue(w.log, m, c, served, pool, w.now); ReasonOf(err) != want {
					t.Errorf("%s: value %d: %v, want %q", name, seq, err, want)
				}
			}
			check(newer, row.agent, committed, 3, seal.ID{}, "")
			phase, pool := committed, seal.ID{}
			if row.by.id == w.bob.device.id {
				phase = edited
			}
			if row.known {
				pool = w.p
			}
			check(sealed, row.by, phase, 2, pool, row.want)
		}
	})

	t.Run("pool unknown to the reader", func(t *testing.T) {
		w := base.fork(t)
		agents := func() []byte { return w.signResult(w.one, w.result(committed, w.one, 2, data)) }
		for _, row := range []struct {
			given  func()
			result func() []byte
			want   Reason
			seen   uint64 // remembered of the record itself: nothing by an agent's word, whose pool may be another
		}{
			{func() {}, agents, "", 0},
			{func() {}, func() []byte { return w.signResult(w.bob.device, w.result(edited, w.bob.device, 2, data)) }, "", 2},
			{func() { w.do(w.alice.device, GrantOp(w.folder, w.p, 0)) }, agents, ValueUnattested, 0},
		} {
			row.given()
			m := &volatile{}
			served := w.serve(uidA, keyA, "", nil)
			served.Data, served.Attestation = sealed, row.result()
			c, err := OpenContent(w.log, w.folderKey, served)
			if err != nil {
				t.Fatal(err)
			}
			_, err = CheckValue(w.log, m, c, served, seal.ID{}, w.now)
			wantReason(t, err, row.want)
			if seen, _ := m.Value(w.ref(uidA)); seen.Seq != row.seen {
				t.Errorf("value %d is remembered, wanted %d", seen.Seq, row.seen)
			}
		}
	})
}

// The log may go on until the moment in which a result is signed: the secret is of the
// epoch that its maker names.
func TestMadeIsHeldAgainstTheHeadThatIsSigned(t *testing.T) {
	w := newWorld(t)
	head := w.log.Head().Epoch
	for made, want := range map[uint64]uint64{0: head, 1: 1, head - 1: head - 1, head: head} {
		signed, _, err := SignResult(w.log, w.one.sign, w.made(w.result(trustv1.Phase_PHASE_COMMITTED, w.one, 2, seal.Digest{1}), made))
		if err != nil {
			t.Errorf("made at %d: %v", made, err)
			continue
		}
		if r, err := OpenResult(w.log, signed); err != nil || r.Made() != want {
			t.Errorf("made at %d: counts as %d, want %d, %v", made, r.Made(), want, err)
		}
	}
	if _, _, err := SignResult(w.log, w.one.sign, w.made(w.result(trustv1.Phase_PHASE_COMMITTED, w.one, 2, seal.Digest{1}), head+1)); err == nil {
		t.Error("a secret of an epoch that is not there yet")
	}
}

// made says of which epoch a result's secret is.
func (w *world) made(r *trustv1.Result, epoch uint64) *trustv1.Result {
	r.MadeEpoch = epoch
	return r
}

// same says that a result leaves the secret that a value set.
func (w *world) same(r *trustv1.Result, set uint64) *trustv1.Result {
	r.Same = &trustv1.SameSecret{ValueSeq: set, LogEpoch: 2}
	return r
}

// An edit that leaves the secret leads back to the result that set it, by digests: also
// where its signer was removed since. Where the chain is cut, only a live word will do.
func TestSetter(t *testing.T) {
	const committed, edited = trustv1.Phase_PHASE_COMMITTED, trustv1.Phase_PHASE_EDITED
	w := newWorld(t)
	set := w.result(committed, w.one, 2, seal.Digest{2})
	set.Reason = Healed
	signed := w.signResult(w.one, set)
	chain := [][]byte{signed}
	edit := func(seq uint64, prev []byte) []byte {
		r := w.same(w.result(edited, w.bob.device, seq, seal.Digest{byte(seq)}), 2)
		if prev != nil {
			d, err := ResultDigest(w.org, prev)
			if err != nil {
				t.Fatal(err)
			}
			r.Prev = d.Bytes()
		}
		return w.signResult(w.bob.device, r)
	}
	first := edit(3, signed)
	newest, err := OpenResult(w.log, edit(4, first))
	if err != nil {
		t.Fatal(err)
	}
	alone, err := OpenResult(w.log, edit(4, nil))
	if err != nil {
		t.Fatal(err)
	}
	setter, err := OpenResult(w.log, signed)
	if err != nil {
		t.Fatal(err)
	}
	if seq, epoch := setter.SetBy(); seq != 2 || epoch != 0 {
		t.Errorf("a secret that was brought back is of epoch %d", epoch)
	}
	otherNumber := w.signResult(w.one, w.result(committed, w.one, 1, seal.Digest{1}))
	for name, c := range map[string]struct {
		newest  *Result
		results [][]byte
		removed bool
		want    bool
	}{
		"itself":                            {setter, nil, false, true},
		"by its chain":                      {newest, append(chain, first), false, true},
		"by its chain, the agent removed":   {newest, append(chain, first), true, true},
		"the chain is cut":                  {newest, chain, false, true},
		"the chain is cut, the agent gone":  {newest, chain, true, false},
		"no chain":                          {alone, chain, false, true},
		"nothing of it":                     {newest, [][]byte{first}, false, false},
		"an edit that hangs in the air":     {alone, [][]byte{first}, false, false},
		"a commit of another number, alone": {alone, [][]byte{otherNumber}, false, false},
	} {
		l := w.log
		if c.removed {
			l = l.Clone()
			change, _, err := SignChange(w.org, l.NewChange(w.alice.device.id, w.now, RemoveOp(w.one.id)), w.alice.device.sign)
			if err == nil {
				_, err = l.Append(change, w.now)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		got, _ := Setter(l, c.newest, c.results, w.p)
		if (got != nil) != c.want || c.want && (got.ValueSeq != 2 || got.Phase != committed) {
			t.Errorf("%s: %v", name, got)
		}
	}
}
