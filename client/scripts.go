package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/internal/record"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk/script"
)

// Script is a script's record. Err says why its file is not the one that its statement
// names, or cannot be read; the manifest and the text are then nobody's word.
type Script struct {
	*Record
	Manifest *script.Manifest // nil with Err
	Text     []byte
	SHA256   seal.Digest
	Err      error
}

// Use names this very file, for a statement: whoever signs that has approved it.
func (s *Script) Use() *trustv1.ScriptUse {
	return &trustv1.ScriptUse{Script: s.Ref.Proto(), Sha256: s.SHA256.Bytes()}
}

// ScriptSpec is a new script.
type ScriptSpec struct {
	Folder seal.ID
	Title  string // empty: the name of its manifest
	Notes  string
	Text   []byte
}

// ScriptUseSpec lets a script run after the rotations of an account, or of all accounts of a
// resource.
type ScriptUseSpec struct {
	Script     Ref
	SHA256     seal.Digest     // of the file that was looked at; another one is a Conflict
	Order      uint32          // those with a lower number run first
	Parameters json.RawMessage // an object; empty: none
	Records    map[string]Ref  // further records, by the manifest's names
}

// readScript is the manifest of a script that is to be stored or approved.
func readScript(text []byte) (*script.Manifest, error) {
	m, err := script.Parse(text)
	if err != nil {
		return nil, &Error{Class: Invalid, Reason: "script", Err: err, Hint: "`rotunda script check FILE` tells more"}
	}
	return m, nil
}

func scriptSubject(m *script.Manifest, text []byte) *trustv1.Script {
	return &trustv1.Script{
		Name: m.Name, Version: m.Version, ScriptKind: string(m.Kind),
		Sha256: seal.Hash(text).Bytes(), ManifestSha256: seal.Hash(m.Comment).Bytes(),
	}
}

// AddScript adds a script with its statement. Nothing runs it before somebody approves it
// where it is used.
func (c *Client) AddScript(ctx context.Context, s ScriptSpec) (Ref, error) {
	m, err := readScript(s.Text)
	op := "add the script"
	if err != nil {
		return Ref{}, fail(op, err)
	}
	op += " " + m.Name
	data, err := newData(TypeScript, orElse(s.Title, m.Name), s.Notes)
	if err == nil {
		err = data.SetText(record.ScriptText, s.Text)
	}
	if err != nil {
		return Ref{}, fail(op, err)
	}
	return c.addRecord(ctx, op, s.Folder, data, scriptSubject(m, s.Text), false)
}

// UpdateScript replaces a script's file. Who uses the former one refuses to run until the new
// one is approved there: approve lists the records whose uses the caller approves by this,
// in the same write.
func (c *Client) UpdateScript(ctx context.Context, ref Ref, text []byte, approve ...Ref) error {
	op := "update the script " + ref.String()
	m, err := readScript(text)
	if err != nil {
		return fail(op, err)
	}
	for attempt := 1; ; attempt++ {
		o, err := c.scriptRecord(ctx, op, ref)
		if err != nil {
			return err
		}
		if was := o.Statement.GetScript(); was.Name != m.Name || was.ScriptKind != string(m.Kind) {
			return invalid(op, "it is %s of kind %s, and the file is %s of kind %s: that is another script, which is added", was.Name, was.ScriptKind, m.Name, m.Kind)
		}
		data, err := cloneRecord(o.data)
		if err == nil {
			err = data.SetText(record.ScriptText, text)
		}
		if err != nil {
			return fail(op, err)
		}
		d := newDraft(o)
		d.setSubject(scriptSubject(m, text))
		drafts := []draft{d}
		for _, user := range approve {
			d, err := c.approval(ctx, op, user, ref, m, seal.Hash(text))
			if err != nil {
				return err
			}
			drafts = append(drafts, d)
		}
		err = c.putDrafts(ctx, op, drafts, func(l *trust.Log) ([]*clientv1.WriteOp, error) {
			return c.replaceData(l, o, data, nil)
		})
		if ReasonOf(err) != "statement_conflict" || attempt == appendAttempts {
			return err
		}
	}
}

// approval is the next statement of a record that uses a script, with another file of it.
func (c *Client) approval(ctx context.Context, op string, user, ref Ref, m *script.Manifest, sum seal.Digest) (draft, error) {
	o, err := c.one(ctx, op, user)
	if err != nil {
		return draft{}, err
	}
	if err := o.signed(op, "record that uses the script", o.Statement != nil); err != nil {
		return draft{}, err
	}
	if err := o.linked(op); err != nil {
		return draft{}, err
	}
	d, found := newDraft(o), false
	for _, u := range usesOf(d.subject) {
		if name, err := refFrom(u.use.Script); err != nil || name != ref {
			continue
		}
		if _, err := m.Values(u.parameters); err != nil {
			return draft{}, fail(op, fmt.Errorf("%s: %w", o.Title, err))
		}
		if err := c.checkRecords(ctx, op, m, u.use); err != nil {
			return draft{}, err
		}
		if err := c.checkAdmin(ctx, op, m, o, u.at); err != nil {
			return draft{}, err
		}
		u.use.Sha256, found = sum.Bytes(), true
	}
	if !found {
		return draft{}, invalid(op, "%s does not use it", o.Title)
	}
	return d, nil
}

// ApproveScript signs anew that a record uses a script, with the file that it has now: sum
// is the one that was looked at.
func (c *Client) ApproveScript(ctx context.Context, user, ref Ref, sum seal.Digest) error {
	op := "approve a script in " + user.String()
	for attempt := 1; ; attempt++ {
		s, err := c.seenScript(ctx, op, ref, sum)
		if err != nil {
			return err
		}
		d, err := c.approval(ctx, op, user, ref, s.Manifest, sum)
		if err != nil {
			return err
		}
		err = c.putDraft(ctx, op, d, nil)
		if ReasonOf(err) != "statement_conflict" || attempt == appendAttempts {
			return err
		}
	}
}

// Script opens a script's record, whose file must be the one that its statement names.
func (c *Client) Script(ctx context.Context, ref Ref) (*Script, error) {
	op := "show the script " + ref.String()
	o, err := c.scriptRecord(ctx, op, ref)
	if err != nil {
		return nil, err
	}
	s := scriptOf(o)
	return s, fail(op, s.Err)
}

// Scripts lists the scripts of a folder, or of all folders.
func (c *Client) Scripts(ctx context.Context, folder seal.ID) iter.Seq2[*Script, error] {
	return func(yield func(*Script, error) bool) {
		err := c.walk(ctx, folder, []string{TypeScript}, func(o *opened) bool { return yield(scriptOf(o), nil) })
		if err != nil {
			yield(nil, err)
		}
	}
}

func (c *Client) scriptRecord(ctx context.Context, op string, ref Ref) (*opened, error) {
	o, err := c.one(ctx, op, ref)
	if err != nil {
		return nil, err
	}
	return o, o.signed(op, "script", o.Statement.GetScript() != nil)
}

// seenScript is a script whose file is still the one that somebody looked at.
func (c *Client) seenScript(ctx context.Context, op string, ref Ref, sum seal.Digest) (*Script, error) {
	o, err := c.scriptRecord(ctx, op, ref)
	if err != nil {
		return nil, err
	}
	s := scriptOf(o)
	if s.Err != nil {
		return nil, fail(op, s.Err)
	}
	if s.SHA256 != sum {
		return nil, &Error{
			Class: Conflict, Reason: string(trust.ScriptChanged), Op: op, Err: fmt.Errorf("the script %s has another file than the one that was looked at", s.Title),
			Hint: "look at it again: `rotunda script show`",
		}
	}
	return s, nil
}

// scriptOf reads a script's record as an agent does.
func scriptOf(o *opened) *Script {
	s := &Script{Record: o.Record}
	if o.data == nil || o.Statement.GetScript() == nil {
		s.Err = &Error{Class: Refused, Reason: orElse(o.Reason, string(trust.RecordUnsigned)), Err: errors.New("the record is no script that somebody signed"), Hint: trust.Reason(o.Reason).Hint()}
		return s
	}
	text, _ := o.data.Text(record.ScriptText)
	m, err := script.Parse(text)
	s.SHA256 = seal.Hash(text)
	if seal.Digest(o.Statement.GetScript().Sha256) != s.SHA256 || err == nil && !proto.Equal(scriptSubject(m, text), o.Statement.GetScript()) {
		s.Err = &Error{Class: Refused, Reason: string(trust.ScriptChanged), Err: errors.New("its file is not the one that its statement names"), Hint: trust.ScriptChanged.Hint()}
		return s
	}
	if err != nil {
		s.Err = &Error{Class: Refused, Reason: "script", Err: err, Hint: "this client, or the one that stored it, is of another version"}
		return s
	}
	s.Manifest, s.Text = m, text
	return s
}

// use is where a statement names a script.
type use struct {
	use        *trustv1.ScriptUse
	parameters []byte
	kind       script.Kind
	place      string
	at         *trustv1.Ref // the resource that it works on; nil: the record's own
}

// usesOf lists them: whoever changes one changes the statement.
func usesOf(s *trustv1.Statement) (out []use) {
	if r := s.GetResource(); r.GetRotator() != nil {
		out = append(out, use{r.Rotator, r.Config, script.Rotator, "rotator", nil})
	}
	if d := s.GetResource().GetDiscoverer(); d != nil {
		out = append(out, use{d, d.Parameters, script.Discoverer, "discoverer", nil})
	}
	for n, d := range s.GetAccount().GetDependents() {
		if d.Script != nil {
			out = append(out, use{d.Script, d.Config, script.Dependents, fmt.Sprintf("dependent %d", n+1), d.Resource})
		}
	}
	if g := s.GetAccount().GetGenerator(); g != nil {
		out = append(out, use{g, g.Parameters, script.Generator, "generator", nil})
	}
	for _, u := range slices.Concat(s.GetAccount().GetScripts(), s.GetResource().GetScripts()) {
		out = append(out, use{u, u.Parameters, script.AfterRotation, "after a rotation", nil})
	}
	return out
}

// UsesIn are the uses of scripts that a statement names, in all places.
func UsesIn(s *trustv1.Statement) (out []*trustv1.ScriptUse) {
	for _, u := range usesOf(s) {
		out = append(out, u.use)
	}
	return out
}

// ScriptUse is where a record uses a script.
type ScriptUse struct {
	Record   Ref
	Title    string
	Place    string // rotator, discoverer, dependent 1, …, generator, after a rotation
	Use      *trustv1.ScriptUse
	Given    []byte // its parameters: of a rotator or a dependent, the settings of that place
	On       Ref    // the resource that it works on, or the account of one
	Approved bool   // it names the file that the script has now; else nothing runs there
	By       string // who approved it
}

// ScriptUses lists where a script is used, among the records that the caller may read.
func (c *Client) ScriptUses(ctx context.Context, ref Ref) ([]ScriptUse, error) {
	o, err := c.scriptRecord(ctx, "list the uses of the script "+ref.String(), ref)
	if err != nil {
		return nil, err
	}
	now := o.Statement.GetScript().Sha256
	var out []ScriptUse
	err = c.walk(ctx, seal.ID{}, nil, func(o *opened) bool {
		for _, u := range usesOf(o.Statement) {
			if name, err := refFrom(u.use.Script); err == nil && name == ref {
				on := o.Ref
				if u.at != nil {
					on, _ = refFrom(u.at) // a statement's form is checked
				}
				out = append(out, ScriptUse{
					Record: o.Ref, Title: o.Title, Place: u.place, Use: u.use, Given: u.parameters, On: on,
					Approved: string(now) == string(u.use.Sha256), By: o.SignedByName,
				})
			}
		}
		return true
	})
	return out, err
}

// UsedBy lists the scripts that an account's rotations use: those that its own statement and
// its resource's name now, each with who approved it there.
func (c *Client) UsedBy(ctx context.Context, account Ref) (out []ScriptUse, err error) {
	op := "list the scripts of the account " + account.String()
	a, err := c.account(ctx, op, account)
	if err != nil {
		return nil, err
	}
	r, err := c.resourceOf(ctx, op, a)
	if err != nil {
		return nil, err
	}
	for _, o := range []*opened{a, r} {
		for _, u := range usesOf(o.Statement) {
			if goesBy(trustv1.Action_ACTION_ROTATE, u.kind) {
				out = append(out, ScriptUse{Record: o.Ref, Title: o.Title, Place: u.place, Use: u.use, Given: u.parameters, On: r.Ref, By: o.SignedByName})
			}
		}
	}
	return out, nil
}

// UseScript lets a script run after rotations: of an account, or of all accounts of a
// resource. It takes the place of a use of that script in the same order.
func (c *Client) UseScript(ctx context.Context, user Ref, s ScriptUseSpec) error {
	op := "use a script in " + user.String()
	found, err := c.seenScript(ctx, op, s.Script, s.SHA256)
	if err != nil {
		return err
	}
	m := found.Manifest
	if m.Kind != script.AfterRotation {
		return invalid(op, "the script %s is of kind %s: that is named as a resource's plugin, or among an account's dependents", m.Name, m.Kind)
	}
	if _, err := m.Values(s.Parameters); err != nil {
		return &Error{Class: Invalid, Reason: "parameters", Op: op, Err: err, Hint: "`rotunda script show` lists what it takes"}
	}
	u := found.Use()
	u.Order, u.Parameters = s.Order, s.Parameters
	for _, name := range slices.Sorted(maps.Keys(s.Records)) {
		u.RecordNames, u.Records = append(u.RecordNames, name), append(u.Records, s.Records[name].Proto())
	}
	if err := c.checkRecords(ctx, op, m, u); err != nil {
		return err
	}
	at, err := c.one(ctx, op, user)
	if err == nil {
		err = c.checkAdmin(ctx, op, m, at, nil)
	}
	if err != nil {
		return err
	}
	return c.editScripts(ctx, op, user, func(list []*trustv1.ScriptUse) ([]*trustv1.ScriptUse, error) {
		i := slices.IndexFunc(list, func(o *trustv1.ScriptUse) bool { return proto.Equal(o.Script, u.Script) && o.Order == u.Order })
		if i < 0 {
			return append(list, u), nil
		}
		list[i] = u
		return list, nil
	})
}

// DropScript takes a script out of what runs after a record's rotations.
func (c *Client) DropScript(ctx context.Context, user, ref Ref) error {
	op := "take a script out of " + user.String()
	return c.editScripts(ctx, op, user, func(list []*trustv1.ScriptUse) ([]*trustv1.ScriptUse, error) {
		left := slices.DeleteFunc(slices.Clone(list), func(u *trustv1.ScriptUse) bool { return proto.Equal(u.Script, ref.Proto()) })
		if len(left) == len(list) {
			return nil, invalid("", "it does not run that script after a rotation")
		}
		return left, nil
	})
}

func (c *Client) editScripts(ctx context.Context, op string, user Ref, change func([]*trustv1.ScriptUse) ([]*trustv1.ScriptUse, error)) error {
	o, err := c.one(ctx, op, user)
	if err != nil {
		return err
	}
	if o.Type == TypeAccount {
		return c.EditAccount(ctx, user, true, func(a *trustv1.Account) (err error) {
			a.Scripts, err = change(a.Scripts)
			return err
		})
	}
	return c.EditResource(ctx, user, func(r *trustv1.Resource) (err error) {
		r.Scripts, err = change(r.Scripts)
		return err
	})
}

// checkAdmin refuses what agents would: who lets a script of an account work as the
// administrator of the account's resource, or of a dependent's, must have rights on him
// himself.
func (c *Client) checkAdmin(ctx context.Context, op string, m *script.Manifest, user *opened, dependent *trustv1.Ref) error {
	if !slices.Contains(m.Needs, script.NeedAdmin) || user.Type != TypeAccount { // of a resource the statement names him, which asks for those rights
		return nil
	}
	if err := user.signed(op, "account", user.Statement.GetAccount() != nil); err != nil {
		return err
	}
	resource, err := c.whereUsed(ctx, op, user, dependent)
	if err != nil {
		return err
	}
	r := resource.Statement.GetResource()
	if r.AdminAccount == nil {
		return &Error{Class: Invalid, Reason: "administrator.none", Op: op, Err: fmt.Errorf("the script %s works as the administrator of %s, which names none", m.Name, resource.Title), Hint: Hint("administrator.none")}
	}
	logins := []*trustv1.Ref{r.AdminAccount}
	for _, x := range r.Extras {
		if x.Name != trust.JumpExtra {
			logins = append(logins, x.Account)
		}
	}
	for _, login := range logins {
		ref, err := refFrom(login)
		if err != nil {
			return fail(op, err)
		}
		if has := c.log.Roles(c.facts.Entry, ref.Folder); !has.Has(Read | Operate) {
			return &Error{
				Class: Denied, Reason: string(trust.NotLinked), Op: op,
				Err:  fmt.Errorf("the script %s gets %s, a login of %s, on which you have not the rights (%s) yourself", m.Name, ref, resource.Title, Read|Operate),
				Hint: "somebody who may read and operate the administrator's folder lets it in, or it runs after the resource's rotations",
			}
		}
	}
	return nil
}

// checkRecords holds the further records of a use against what the script works with.
func (c *Client) checkRecords(ctx context.Context, op string, m *script.Manifest, u *trustv1.ScriptUse) error {
	_, err := c.furtherRecords(ctx, op, m, u)
	return err
}

// RunScripts runs what runs after a rotation, for accounts whose secrets stay as they are.
func (c *Client) RunScripts(ctx context.Context, accounts []Ref, o RunOptions) ([]Outcome, error) {
	return c.run(ctx, actionScript, accounts, o)
}
