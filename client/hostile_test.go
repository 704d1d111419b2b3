package client

import (
	"context"
	"errors"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

// everyAction is all that a person does with a server, on an estate.
var everyAction = map[string]func(context.Context, *Client, *estate) error{
	"sync":    func(ctx context.Context, c *Client, _ *estate) error { return c.Sync(ctx) },
	"members": func(ctx context.Context, c *Client, _ *estate) error { return second(c.Members(ctx)) },
	"agents":  func(ctx context.Context, c *Client, _ *estate) error { return second(c.Agents(ctx, seal.ID{})) },
	"pending": func(ctx context.Context, c *Client, _ *estate) error { return second(c.Pending(ctx)) },
	"add agent": func(ctx context.Context, c *Client, _ *estate) error {
		return second(c.AddAgent(ctx, AgentSpec{Pool: "dc1", Name: "gw2", Unattended: true}))
	},
	"folders":    func(ctx context.Context, c *Client, _ *estate) error { return second(c.Folders(ctx)) },
	"add folder": func(ctx context.Context, c *Client, _ *estate) error { return second(c.AddFolder(ctx, "Web")) },
	"grant":      func(ctx context.Context, c *Client, e *estate) error { return c.Grant(ctx, e.folder, e.bob, Read) },
	"grant app":  func(ctx context.Context, c *Client, e *estate) error { return c.GrantApp(ctx, e.app, e.folder, Read) },
	"re-key": func(ctx context.Context, c *Client, e *estate) error {
		return second(c.RekeyFolder(ctx, e.folder, RekeyOptions{New: true}))
	},
	"re-key after a restore": func(ctx context.Context, c *Client, e *estate) error {
		return second(c.RekeyFolder(ctx, e.folder, RekeyOptions{Restored: func(Restored) (bool, error) { return true, nil }}))
	},
	"records": func(ctx context.Context, c *Client, _ *estate) error {
		for r, err := range c.Records(ctx, seal.ID{}) {
			if err != nil {
				return err
			}
			_, _ = r.Secret()
			_ = r.Login() + r.URL() + r.Notes() + r.PublicKey()
		}
		return nil
	},
	"get": func(ctx context.Context, c *Client, e *estate) error {
		return second(c.Get(ctx, e.resource, e.account, e.login))
	},
	"find record": func(ctx context.Context, c *Client, _ *estate) error {
		return second(c.FindRecord(ctx, "Databases/app"))
	},
	"reveal": func(ctx context.Context, c *Client, e *estate) error { return c.Reveal(ctx, e.account) },
	"history": func(ctx context.Context, c *Client, e *estate) error {
		list, err := c.History(ctx, e.account)
		for i := range list {
			_, _ = list[i].Secret()
		}
		return err
	},
	"uses": func(ctx context.Context, c *Client, e *estate) error { return second(c.Uses(ctx, e.resource)) },
	"add login": func(ctx context.Context, c *Client, e *estate) error {
		return second(c.AddLogin(ctx, LoginSpec{Folder: e.folder, Title: "blog", Secret: sdk.NewSecret([]byte("x"))}))
	},
	"edit record": func(ctx context.Context, c *Client, e *estate) error {
		secret := sdk.NewSecret([]byte("third"))
		return c.EditRecord(ctx, e.account, RecordEdit{Secret: &secret})
	},
	"edit account": func(ctx context.Context, c *Client, e *estate) error {
		return c.EditAccount(ctx, e.account, false, func(*trustv1.Account) error { return nil })
	},
	"edit resource": func(ctx context.Context, c *Client, e *estate) error {
		return c.EditResource(ctx, e.resource, func(*trustv1.Resource) error { return nil })
	},
	"adopt":         func(ctx context.Context, c *Client, e *estate) error { return c.Adopt(ctx, e.account, 3, true) },
	"remove record": func(ctx context.Context, c *Client, e *estate) error { return c.RemoveRecord(ctx, e.login) },
	"import": func(ctx context.Context, c *Client, e *estate) error {
		return second(c.ImportCSV(ctx, e.folder, strings.NewReader("title,login,password\nblog,ada,x\n"), func(int) {}))
	},
	"set rotation": func(ctx context.Context, c *Client, e *estate) error {
		return c.SetRotation(ctx, RotationSpec{Account: e.account})
	},
	"rotation": func(ctx context.Context, c *Client, e *estate) error {
		r, err := c.RotationOf(ctx, e.account)
		if err == nil {
			_, err = r.Preview(time.Now(), 5)
		}
		return err
	},
	"rotations": func(ctx context.Context, c *Client, e *estate) error {
		for _, err := range c.Rotations(ctx, e.folder) {
			if err != nil {
				return err
			}
		}
		return nil
	},
	"rotate": func(ctx context.Context, c *Client, e *estate) error {
		return outcome(c.Rotate(ctx, []Ref{e.account}, RunOptions{}))
	},
	"verify": func(ctx context.Context, c *Client, e *estate) error {
		return outcome(c.Verify(ctx, []Ref{e.account}, RunOptions{}))
	},
	"script":      func(ctx context.Context, c *Client, e *estate) error { return second(c.Script(ctx, e.script)) },
	"script uses": func(ctx context.Context, c *Client, e *estate) error { return second(c.ScriptUses(ctx, e.script)) },
	"scripts": func(ctx context.Context, c *Client, e *estate) error {
		for _, err := range c.Scripts(ctx, e.folder) {
			if err != nil {
				return err
			}
		}
		return nil
	},
	"add script": func(ctx context.Context, c *Client, e *estate) error {
		return second(c.AddScript(ctx, ScriptSpec{Folder: e.folder, Text: luaText("other", "1", "dependents")}))
	},
	"update script": func(ctx context.Context, c *Client, e *estate) error {
		return c.UpdateScript(ctx, e.script, luaText("notify", "2", "after_rotation"), e.resource)
	},
	"approve script": func(ctx context.Context, c *Client, e *estate) error {
		return c.ApproveScript(ctx, e.resource, e.script, seal.Hash(estateScript))
	},
	"use script": func(ctx context.Context, c *Client, e *estate) error {
		return c.UseScript(ctx, e.resource, ScriptUseSpec{Script: e.script, SHA256: seal.Hash(estateScript), Order: 1})
	},
	"drop script": func(ctx context.Context, c *Client, e *estate) error { return c.DropScript(ctx, e.resource, e.script) },
	"run scripts": func(ctx context.Context, c *Client, e *estate) error {
		return outcome(c.RunScripts(ctx, []Ref{e.account}, RunOptions{}))
	},
	"runs": func(ctx context.Context, c *Client, _ *estate) error {
		_, _, err := c.Runs(ctx, RunFilter{})
		return err
	},
	"run": func(ctx context.Context, c *Client, e *estate) error { return second(c.Run(ctx, e.run)) },
	"wait": func(ctx context.Context, c *Client, e *estate) error {
		return second(c.Wait(ctx, e.run, RunOptions{Wait: 50 * time.Millisecond}))
	},
	"retry": func(ctx context.Context, c *Client, e *estate) error {
		return second(c.Retry(ctx, e.run, RunOptions{Wait: 50 * time.Millisecond}))
	},
	"abandon": func(ctx context.Context, c *Client, e *estate) error {
		return second(c.Abandon(ctx, e.run, RunOptions{Wait: 50 * time.Millisecond, Unproven: true}))
	},
	"test": func(ctx context.Context, c *Client, e *estate) error {
		return second(c.Test(ctx, e.resource, RunOptions{}))
	},
	"probe": func(ctx context.Context, c *Client, e *estate) error {
		r, err := c.Probe(ctx, e.resource, RunOptions{})
		if err == nil {
			err = c.Pin(ctx, e.resource, r)
		}
		return err
	},
	"info": func(ctx context.Context, c *Client, e *estate) error {
		return second(c.Info(ctx, e.vault.agent, RunOptions{}))
	},
	"apps": func(ctx context.Context, c *Client, _ *estate) error { return second(c.Apps(ctx)) },
	"app token": func(ctx context.Context, c *Client, e *estate) error {
		return second(c.AppToken(ctx, AppClientSpec{App: e.app, Name: "ci", ServerKeyID: "100"}))
	},
	"known apps": func(ctx context.Context, c *Client, _ *estate) error { return second(c.KnownApps(ctx)) },
	"events": func(ctx context.Context, c *Client, _ *estate) error {
		_, _, err := c.Events(ctx, EventFilter{})
		return err
	},
	"log":        func(ctx context.Context, c *Client, _ *estate) error { return second(c.Log(ctx, 0, 0)) },
	"verify log": func(ctx context.Context, c *Client, _ *estate) error { return second(c.VerifyLog(ctx)) },
	"recovery":   func(ctx context.Context, c *Client, _ *estate) error { return second(c.Recovery(ctx)) },
	"removal": func(ctx context.Context, c *Client, e *estate) error {
		r, err := c.PlanRemoval(ctx, e.bob)
		if err == nil {
			err = c.Remove(ctx, r, nil)
		}
		if err != nil {
			return err
		}
		out, err := c.Outsiders(ctx)
		if err != nil {
			return err
		}
		if _, _, err = c.Exposed(ctx, out); err != nil {
			return err
		}
		return second(c.Unheard(ctx, out))
	},
	"removed": func(ctx context.Context, c *Client, _ *estate) error { _, _, err := c.Removed(ctx, "Bob"); return err },
}

func second[T any](_ T, err error) error { return err }

func outcome(list []Outcome, err error) error {
	for _, o := range list {
		err = errors.Join(err, o.Err)
	}
	return err
}

// twister changes what a server shows, as bytes say; where they end it is honest.
type twister struct {
	bytes []byte
	pool  [][]byte // everything that was ever shown in a field of bytes
	words []string
}

func (w *twister) next() byte {
	if len(w.bytes) == 0 {
		return 0
	}
	b := w.bytes[0]
	w.bytes = w.bytes[1:]
	return b
}

// of gives a number below n.
func (w *twister) of(n int) int { return (int(w.next())<<8 | int(w.next())) % n }

func (w *twister) message(m protoreflect.Message) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		switch change := w.next()%16 == 15; {
		case f.IsList():
			w.list(m, f, change)
		case f.Message() != nil && change:
			m.Clear(f)
			if w.next()%2 == 1 {
				m.Set(f, m.NewField(f)) // there, and empty
			}
		case f.Message() != nil && m.Has(f):
			w.message(m.Mutable(f).Message())
		case change && f.Message() == nil:
			m.Set(f, w.value(f))
		}
	}
}

func (w *twister) list(m protoreflect.Message, f protoreflect.FieldDescriptor, change bool) {
	list := m.Mutable(f).List()
	if f.Message() != nil {
		for i := range list.Len() {
			w.message(list.Get(i).Message())
		}
	}
	if !change {
		return
	}
	switch w.next() % 4 {
	case 0:
		list.Truncate(0)
	case 1:
		if n := list.Len(); n > 0 {
			list.Append(list.Get(w.of(n)))
		}
	default:
		if f.Message() != nil {
			list.Append(list.NewElement())
		} else {
			list.Append(w.value(f))
		}
	}
}

func (w *twister) value(f protoreflect.FieldDescriptor) protoreflect.Value {
	n := func() int64 { return []int64{0, 1, -1, math.MaxInt64, math.MinInt64, 1 << 40, 16, 2}[w.of(8)] }
	switch f.Kind() {
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes(slices.Clone(w.pool[w.of(len(w.pool))]))
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(w.words[w.of(len(w.words))])
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(w.next()%2 == 1)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(w.next() % 8))
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(uint32(n()))
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(uint64(n()))
	}
	return protoreflect.ValueOfInt64(n())
}

// collect notes the bytes and the words of a message.
func (w *twister) collect(m protoreflect.Message) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		each := func(v protoreflect.Value) {
			switch f.Kind() {
			case protoreflect.MessageKind:
				w.collect(v.Message())
			case protoreflect.BytesKind:
				if b := v.Bytes(); !slices.ContainsFunc(w.pool, func(p []byte) bool { return string(p) == string(b) }) {
					w.pool = append(w.pool, slices.Clone(b))
				}
			case protoreflect.StringKind:
				if !slices.Contains(w.words, v.String()) {
					w.words = append(w.words, v.String())
				}
			}
		}
		if f.IsList() {
			for i := range v.List().Len() {
				each(v.List().Get(i))
			}
		} else {
			each(v)
		}
		return true
	})
}

// newTwister knows what an honest server shows in every action, and more that is signed.
func newTwister(t testing.TB, e *estate, names []string) *twister {
	w := &twister{pool: [][]byte{nil, {0xff}, make([]byte, 16), make([]byte, 32), make([]byte, 64)}, words: []string{"", "x", "client", "agent", TypeAccount, TypeMachine, "\u009b", "99", "{"}}
	for _, name := range names {
		v := e.vault.clone()
		v.twist = func(m proto.Message) { w.collect(m.ProtoReflect()) }
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		err := everyAction[name](ctx, e.client(v, filepath.Join(t.TempDir(), "memory")), e)
		cancel()
		if ReasonOf(err) != refusedHonestly[name] {
			t.Errorf("%s: an honest server is answered %q, want %q: %v", name, ReasonOf(err), refusedHonestly[name], err)
		}
	}
	for phase := range trustv1.Phase_name {
		signed, err := e.vault.result(&trustv1.Result{
			Phase: trustv1.Phase(phase), RunId: e.run.Bytes(), Account: e.account.Proto(), Event: 1, LeaseEpoch: 1,
			ValueSeq: 9, DataDigest: seal.Hash([]byte("data")).Bytes(),
		})
		if err == nil {
			w.pool = append(w.pool, signed)
		}
		if signed, err = e.vault.result(&trustv1.Result{Phase: trustv1.Phase(phase), RunId: e.run.Bytes(), Account: e.account.Proto(), Event: 1}); err == nil {
			w.pool = append(w.pool, signed)
		}
	}
	return w
}

// refusedHonestly are the actions that this estate refuses, and why: a candidate is
// outstanding, and the agent says that it changed nothing.
var refusedHonestly = map[string]string{
	"adopt": "run_outstanding", "edit record": "run_outstanding", "retry": "run_open", "wait": "no_result_yet", "rotate": "value_unattested",
}

// TestServedInPart: a server leaves out a field wherever it would have been, one after the
// other. The client refuses, or does without; it does not break down.
func TestServedInPart(t *testing.T) {
	e := newEstate(t)
	for name, act := range everyAction {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			left := map[protoreflect.FullName]bool{} // fields that an honest server fills
			run := func(without protoreflect.FullName) {
				v := e.vault.clone()
				v.calls, v.twist = 60, func(m proto.Message) {
					eachMessage(m.ProtoReflect(), func(m protoreflect.Message) {
						m.Range(func(f protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
							if f.FullName() == without {
								m.Clear(f)
							} else if without == "" {
								left[f.FullName()] = true
							}
							return true
						})
					})
				}
				ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
				defer cancel()
				defer func() {
					if r := recover(); r != nil {
						t.Errorf("without %s: %v", without, r)
					}
				}()
				err := act(ctx, e.client(v, filepath.Join(t.TempDir(), "memory")), e)
				if err != nil && ReasonOf(err) == "" && trust.ReasonOf(err) == "" {
					t.Errorf("without %s: an error without a reason: %v", without, err)
				}
			}
			run("")
			for field := range left {
				run(field)
			}
		})
	}
}

// eachMessage calls f for a message and what is in it.
func eachMessage(m protoreflect.Message, f func(protoreflect.Message)) {
	f(m)
	m.Range(func(d protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case d.Message() == nil:
		case d.IsList():
			for i := range v.List().Len() {
				eachMessage(v.List().Get(i).Message(), f)
			}
		default:
			eachMessage(v.Message(), f)
		}
		return true
	})
}

// FuzzServer: a server shows what it likes, made of what was really signed and sealed. The
// client refuses, or believes; it does not break down, and it comes to an end. What it says
// of a refusal is a reason. Keys and ids are others in each run, so that an input shows
// nothing twice and none is committed: what was found is shown by TestServedInPart.
func FuzzServer(f *testing.F) {
	e := newEstate(f)
	names := slices.Sorted(maps.Keys(everyAction))
	honest := newTwister(f, e, names)
	for i := range names {
		f.Add(uint8(i), []byte{})
		for seed := range uint64(6) {
			r := rand.New(rand.NewPCG(seed, uint64(i)))
			b := make([]byte, 2000)
			for k := range b {
				if b[k] = byte(r.Uint32()); r.IntN(4) > 0 {
					b[k] &^= 1 // most of what is shown is as it should be
				}
			}
			f.Add(uint8(i), b)
		}
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, action uint8, b []byte) {
		name := names[int(action)%len(names)]
		v := e.vault.clone()
		w := &twister{bytes: b, pool: honest.pool, words: honest.words}
		v.calls, v.twist = 60, func(m proto.Message) { w.message(m.ProtoReflect()) }
		file, err := os.CreateTemp(dir, "memory-")
		if err != nil {
			t.Fatal(err)
		}
		_ = file.Close()
		defer os.Remove(file.Name())
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		began := time.Now()
		err = everyAction[name](ctx, e.client(v, file.Name()), e)
		if d := time.Since(began); d > 20*time.Second {
			t.Errorf("%s took %s", name, d)
		}
		if err != nil && (ReasonOf(err) == "" || err.Error() == "") && trust.ReasonOf(err) == "" {
			t.Errorf("%s: an error without a reason: %v", name, err)
		}
	})
}
