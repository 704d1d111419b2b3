package trust

import (
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/internal/seal"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// The steps of keys.md 4.3, 1 to 7. Each row makes a frame for agent One.
func TestOpenCommandSteps(t *testing.T) {
	base := newWorld(t)
	bob, carol, one := base.bob.device, base.carol.device, base.one
	account, resource := base.open(bob, base.account()), base.open(bob, base.resource())
	cmd := base.rotate(account, resource)
	sealed := func(w *world, by party, f func(*trustv1.Command)) *trustv1.CommandFrame {
		c := proto.CloneOf(cmd)
		if f != nil {
			f(c)
		}
		signed, _ := w.signCommand(by, c)
		return w.frame(by, w.one, id(130), signed)
	}
	info := func(c *trustv1.Command) {
		c.Action, c.Account, c.Pins, c.RunId = trustv1.Action_ACTION_INFO, nil, nil, nil
	}
	test := func(c *trustv1.Command) {
		c.Action, c.Account, c.Pins = trustv1.Action_ACTION_TEST, nil, c.Pins[1:]
	}
	for _, row := range []struct {
		name string
		make func(w *world, m *volatile) *trustv1.CommandFrame
		want Reason
	}{
		{"honest", func(w *world, m *volatile) *trustv1.CommandFrame { return sealed(w, bob, nil) }, ""},
		{"1 too large", func(w *world, m *volatile) *trustv1.CommandFrame {
			f := sealed(w, bob, nil)
			f.Sealed = make([]byte, MaxSealedCommand+1)
			return f
		}, TooLarge},
		{"1 the frame's from altered", func(w *world, m *volatile) *trustv1.CommandFrame {
			f := sealed(w, bob, nil)
			f.From = carol.id.Bytes()
			return f
		}, SealOpen},
		{"1 the frame's to altered", func(w *world, m *volatile) *trustv1.CommandFrame {
			f := sealed(w, bob, nil)
			f.To = w.two.id.Bytes()
			return f
		}, SealOpen},
		{"1 the frame's id altered", func(w *world, m *volatile) *trustv1.CommandFrame {
			f := sealed(w, bob, nil)
			f.Id = id(131).Bytes()
			return f
		}, SealOpen},
		{"1 the frame of another agent", func(w *world, m *volatile) *trustv1.CommandFrame {
			signed, _ := w.signCommand(bob, cmd)
			return w.frame(bob, w.two, id(130), signed)
		}, SealOpen},
		{"1 of another organisation, same agent id", func(w *world, m *volatile) *trustv1.CommandFrame {
			signed, _ := w.signCommand(bob, cmd)
			box, err := seal.SealTo(one.seal.Public(), commandRoute(seal.Digest{1}, bob.id, one.id, id(130)), signed)
			if err != nil {
				t.Fatal(err)
			}
			return &trustv1.CommandFrame{To: one.id.Bytes(), From: bob.id.Bytes(), Id: id(130).Bytes(), Sealed: box}
		}, SealOpen},
		{"1 short ids in the frame", func(w *world, m *volatile) *trustv1.CommandFrame { return &trustv1.CommandFrame{} }, Malformed},
		{"1 not a command", func(w *world, m *volatile) *trustv1.CommandFrame { return w.frame(bob, one, id(130), []byte{0xff}) }, Malformed},
		{"1 unknown field", func(w *world, m *volatile) *trustv1.CommandFrame {
			return sealed(w, bob, func(c *trustv1.Command) { c.ProtoReflect().SetUnknown([]byte{0xa0, 0x01, 1}) })
		}, UnknownField},
		{"1 newer format", func(w *world, m *volatile) *trustv1.CommandFrame {
			return sealed(w, bob, func(c *trustv1.Command) { c.V = 2 })
		}, UnknownField},
		{"1 no run", func(w *world, m *volatile) *trustv1.CommandFrame {
			return sealed(w, bob, func(c *trustv1.Command) { c.RunId = nil })
		}, Malformed},
		{"1 no pins", func(w *world, m *volatile) *trustv1.CommandFrame {
			return sealed(w, bob, func(c *trustv1.Command) { c.Pins = nil })
		}, Malformed},
		{"1 account not pinned first", func(w *world, m *volatile) *trustv1.CommandFrame {
			return sealed(w, bob, func(c *trustv1.Command) { c.Pins[0], c.Pins[1] = c.Pins[1], c.Pins[0] })
		}, Malformed},
		{"1 one record pinned twice", func(w *world, m *volatile) *trustv1.CommandFrame {
			return sealed(w, bob, func(c *trustv1.Command) { c.Pins = append(c.Pins, c.Pins[1]) })
		}, Malformed},
		{"1 cancel without its run", func(w *world, m *volatile) *trustv1.CommandFrame {
			return sealed(w, bob, func(c *trustv1.Command) { c.Action = trustv1.Action_ACTION_CANCEL })
		}, Malformed},
		{"1 cancel's arguments in a rotate", func(w *world, m *volatile) *trustv1.CommandFrame {
			return sealed(w, bob, func(c *trustv1.Command) {
				c.Args = &trustv1.Command_Cancel{Cancel: &trustv1.CancelArgs{RunId: id(120).Bytes()}}
			})
		}, Malformed},
		{"2 signer saw a newer log", func(w *world, m *volatile) *trustv1.CommandFrame {
			return sealed(w, bob, func(c *trustv1.Command) { c.LogEpoch, c.LogDigest = 300, make([]byte, 32) })
		}, LogGap},
		{"2 signer saw another log", func(w *world, m *volatile) *trustv1.CommandFrame {
			return sealed(w, bob, func(c *trustv1.Command) { c.LogEpoch, c.LogDigest = 2, make([]byte, 32) })
		}, LogFork},
		{"2 my log is stale", func(w *world, m *volatile) *trustv1.CommandFrame {
			w.later(181 * day)
			return sealed(w, bob, func(c *trustv1.Command) {
				c.Issued, c.Expires = w.now.UnixMilli(), w.now.Add(time.Minute).UnixMilli()
			})
		}, LogStale},
		{"3 made by the server with its own key", func(w *world, m *volatile) *trustv1.CommandFrame {
			forger := newParty(t, 99, false)
			forger.id = bob.id
			return sealed(w, forger, nil)
		}, SignerUnknown},
		{"3 signed by an agent", func(w *world, m *volatile) *trustv1.CommandFrame { return sealed(w, w.two, nil) }, SignerUnknown},
		{"3 signed by another than the frame's from", func(w *world, m *volatile) *trustv1.CommandFrame {
			signed, _ := w.signCommand(bob, cmd)
			return w.frame(carol, one, id(130), signed)
		}, SignerUnknown},
		{"3 signer removed", func(w *world, m *volatile) *trustv1.CommandFrame {
			f := sealed(w, bob, nil)
			w.do(w.alice.device, RemoveOp(bob.id))
			return f
		}, SignerUnknown},
		{"3 signer past his time, backdated", func(w *world, m *volatile) *trustv1.CommandFrame {
			w.now = start.Add(200 * day)
			w.do(w.alice.device)
			w.now = start.Add(301 * day)
			return sealed(w, bob, func(c *trustv1.Command) {
				c.Issued, c.Expires = start.Add(299*day).UnixMilli(), start.Add(299*day+time.Minute).UnixMilli()
			})
		}, SignerUnknown},
		{"3 body altered and sealed anew", func(w *world, m *volatile) *trustv1.CommandFrame {
			signed, _ := w.signCommand(bob, cmd)
			s := &trustv1.Signed{}
			if err := proto.Unmarshal(signed, s); err != nil {
				t.Fatal(err)
			}
			other, _ := w.signCommand(bob, func() *trustv1.Command {
				c := proto.CloneOf(cmd)
				c.Pins[0].Digest[0] ^= 1
				return c
			}())
			o := &trustv1.Signed{}
			if err := proto.Unmarshal(other, o); err != nil {
				t.Fatal(err)
			}
			s.Body = o.Body
			return w.frame(bob, one, id(130), mustMarshal(t, s))
		}, SignatureBad},
		{"3 a statement presented as a command", func(w *world, m *volatile) *trustv1.CommandFrame {
			c := proto.CloneOf(cmd)
			h := w.log.Head()
			c.V, c.LogEpoch, c.LogDigest = Version, h.Epoch, h.Digest.Bytes()
			signed, _, err := signEnvelope(seal.KindStatement, w.org, c, bob.sign)
			if err != nil {
				t.Fatal(err)
			}
			return w.frame(bob, one, id(130), signed)
		}, SignatureBad},
		{"4 re-sealed by the agent that it names", func(w *world, m *volatile) *trustv1.CommandFrame {
			return sealed(w, bob, func(c *trustv1.Command) { c.AgentId = w.two.id.Bytes() })
		}, WrongAgent},
		{"4 another id inside", func(w *world, m *volatile) *trustv1.CommandFrame {
			return sealed(w, bob, func(c *trustv1.Command) { c.Id = id(131).Bytes() })
		}, WrongAgent},
		{"5 clock set back a day", func(w *world, m *volatile) *trustv1.CommandFrame {
			m.SeeTime(w.now.Add(day))
			return sealed(w, bob, nil)
		}, ClockBack},
		{"5 clock back within the skew", func(w *world, m *volatile) *trustv1.CommandFrame {
			m.SeeTime(w.now.Add(Skew))
			return sealed(w, bob, nil)
		}, ""},
		{"5 lives for eleven minutes", func(w *world, m *volatile) *trustv1.CommandFrame {
			return sealed(w, bob, func(c *trustv1.Command) { c.Expires = w.now.Add(11 * time.Minute).UnixMilli() })
		}, Lifetime},
		{"5 ends before it begins", func(w *world, m *volatile) *trustv1.CommandFrame {
			return sealed(w, bob, func(c *trustv1.Command) { c.Expires = w.now.Add(-time.Second).UnixMilli() })
		}, Lifetime},
		{"5 not yet", func(w *world, m *volatile) *trustv1.CommandFrame {
			return sealed(w, bob, func(c *trustv1.Command) { c.NotBefore = w.now.Add(Skew + time.Second).UnixMilli() })
		}, NotYet},
		{"5 issued in the future", func(w *world, m *volatile) *trustv1.CommandFrame {
			return sealed(w, bob, func(c *trustv1.Command) {
				c.Issued, c.Expires = w.now.Add(3*time.Minute).UnixMilli(), w.now.Add(5*time.Minute).UnixMilli()
			})
		}, NotYet},
		{"5 held back 15 minutes", func(w *world, m *volatile) *trustv1.CommandFrame {
			f := sealed(w, bob, nil)
			w.later(15 * time.Minute)
			return f
		}, Expired},
		{"5 late within the skew", func(w *world, m *volatile) *trustv1.CommandFrame {
			f := sealed(w, bob, nil)
			w.later(DefaultLifetime + Skew)
			return f
		}, ""},
		{"6 known", func(w *world, m *volatile) *trustv1.CommandFrame {
			m.KnowCommand(id(130))
			return sealed(w, bob, nil)
		}, Replayed},
		{"6 journal lost", func(w *world, m *volatile) *trustv1.CommandFrame {
			m.SetReplayFloor(w.now.Add(Skew))
			return sealed(w, bob, nil)
		}, ReplayFloor},
		{"6 issued at the floor", func(w *world, m *volatile) *trustv1.CommandFrame {
			m.SetReplayFloor(w.now)
			return sealed(w, bob, nil)
		}, ReplayFloor},
		{"7 no OPERATE", func(w *world, m *volatile) *trustv1.CommandFrame { return sealed(w, carol, nil) }, NotAllowed},
		{"7 OPERATE masked", func(w *world, m *volatile) *trustv1.CommandFrame {
			p := person{w.bob.member, newParty(t, 73, false)}
			w.do(bob, PutOp(w.deviceEntry(p, Read|Edit)))
			return sealed(w, p.device, nil)
		}, NotAllowed},
		{"7 no READ in a further record's folder", func(w *world, m *volatile) *trustv1.CommandFrame {
			return sealed(w, bob, func(c *trustv1.Command) { c.Pins[1].Record.FolderUid = id(61).Bytes() })
		}, NotAllowed},
		{"7 test without an account, OPERATE in the resource's folder", func(w *world, m *volatile) *trustv1.CommandFrame {
			return sealed(w, bob, test)
		}, ""},
		{"7 test by a reader", func(w *world, m *volatile) *trustv1.CommandFrame { return sealed(w, carol, test) }, NotAllowed},
		{"7 info, OPERATE on a folder of my pool", func(w *world, m *volatile) *trustv1.CommandFrame { return sealed(w, bob, info) }, ""},
		{"7 info by a reader", func(w *world, m *volatile) *trustv1.CommandFrame { return sealed(w, carol, info) }, NotAllowed},
		{"7 info, OPERATE elsewhere", func(w *world, m *volatile) *trustv1.CommandFrame {
			w.do(w.dave.device, NewFolderOps(w.org, id(61), w.dave.member, fixedKey(61))...)
			return sealed(w, w.dave.device, info)
		}, NotAllowed},
		{"7 info, the pool reads every folder", func(w *world, m *volatile) *trustv1.CommandFrame {
			w.do(w.dave.device, NewFolderOps(w.org, id(61), w.dave.member, fixedKey(61))...)
			w.do(w.alice.device, GrantOp(seal.ID{}, w.p, Read))
			return sealed(w, w.dave.device, info)
		}, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			w, m := base.fork(t), &volatile{}
			f := row.make(w, m)
			c, err := OpenCommand(w.log, m, w.one.id, w.one.seal, f, w.now)
			wantReason(t, err, row.want)
			if (c == nil) != (row.want != "") {
				t.Errorf("command %v with reason %q", c, row.want)
			}
		})
	}
}

func TestSealCommandGoesBack(t *testing.T) {
	w := newWorld(t)
	bob := w.bob.device
	account, resource := w.open(bob, w.account()), w.open(bob, w.resource())
	f, digest, err := SealCommand(w.log, bob.id, bob.sign, w.one.keys, w.rotate(account, resource), w.now)
	if err != nil {
		t.Fatal(err)
	}
	c, err := OpenCommand(w.log, &volatile{}, w.one.id, w.one.seal, f, w.now)
	if err != nil {
		t.Fatal(err)
	}
	if c.Digest != digest || c.Signer.ID != bob.id || c.Target() != w.ref(uidA) || len(c.Pins) != 2 || c.Pins[1].Digest != resource.Digest {
		t.Errorf("%+v", c)
	}
	again, err := ReadCommand(w.log, c.Signed)
	if err != nil || again.Digest != digest {
		t.Errorf("read back from the journal: %v", err)
	}
	wantReason(t, c.CheckStaging(w.now.Add(StagingTime)), "")
	wantReason(t, c.CheckStaging(w.now.Add(StagingTime+time.Second)), Expired)

	_, _, err = SealCommand(w.log, bob.id, bob.sign, w.two.keys, w.rotate(account, resource), w.now)
	wantReason(t, err, RecipientUnverified)
	bad := w.rotate(account, resource)
	bad.RunId = nil
	_, _, err = SealCommand(w.log, bob.id, bob.sign, w.one.keys, bad, w.now)
	wantReason(t, err, Malformed)
}

// 4.3 step 9.
func TestCheckPins(t *testing.T) {
	w := newWorld(t)
	bob := w.bob.device
	account, resource, admin := w.open(bob, w.account()), w.open(bob, w.resource()), w.open(bob, w.admin())
	signed, _ := w.signCommand(bob, w.rotate(account, resource))
	c, err := ReadCommand(w.log, signed)
	if err != nil {
		t.Fatal(err)
	}
	newer := w.resource()
	newer.Seq, newer.Prev, newer.GetResource().Host = 2, resource.Digest.Bytes(), "evil.internal"
	other := w.statement(id(111), fixedKey(1))
	other.Kind, other.Subject = trustv1.RecordKind_RECORD_KIND_ACCOUNT, w.account().Subject
	for _, row := range []struct {
		name string
		used []*Statement
		want Reason
	}{
		{"account, resource, administrator", []*Statement{account, resource, admin}, ""},
		{"without the administrator", []*Statement{account, resource}, ""},
		{"another statement of the resource", []*Statement{account, w.open(bob, newer), admin}, PinMismatch},
		{"the resource not used", []*Statement{account}, PinMismatch},
		{"an account that nothing names", []*Statement{account, resource, w.open(bob, other)}, PinMismatch},
	} {
		t.Run(row.name, func(t *testing.T) { wantReason(t, CheckPins(c, row.used...), row.want) })
	}
}
