package client

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/internal/password"
	"github.com/rotunda-pam/rotunda/internal/record"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// draft is a statement on its way: for a record, over a former one.
type draft struct {
	ref     Ref
	key     seal.Key
	former  *opened // nil: a new record
	subject *trustv1.Statement
}

// newDraft begins the statement after a record's present one, with its subject.
func newDraft(o *opened) draft {
	d := draft{ref: o.Ref, key: o.content.Key, former: o, subject: &trustv1.Statement{}}
	if o.Statement != nil {
		d.subject = proto.CloneOf(o.Statement)
	}
	return d
}

// setSubject puts an account, a resource or a script into the statement.
func (d *draft) setSubject(subject any) {
	switch s := subject.(type) {
	case *trustv1.Account:
		d.subject.Kind = trustv1.RecordKind_RECORD_KIND_ACCOUNT
		d.subject.Subject = &trustv1.Statement_Account{Account: s}
	case *trustv1.Resource:
		d.subject.Kind = trustv1.RecordKind_RECORD_KIND_RESOURCE
		d.subject.Subject = &trustv1.Statement_Resource{Resource: s}
	case *trustv1.Script:
		d.subject.Kind = trustv1.RecordKind_RECORD_KIND_SCRIPT
		d.subject.Subject = &trustv1.Statement_Script{Script: s}
	}
}

// seq is the number of the new statement: above the one served, and the log's floor.
func (d *draft) seq(l *trust.Log) uint64 {
	var served uint64
	if d.former != nil {
		served = d.former.view.Statement.GetSeq()
	}
	return max(served, l.Floor(d.ref)) + 1
}

// floor is what withdraws the former statement also for those without memory;
// none for a record's first.
func (d *draft) floor(l *trust.Log) []*trustv1.Op {
	if d.former == nil || d.former.view.Statement == nil {
		return nil
	}
	return []*trustv1.Op{trust.FloorOp(d.ref, d.seq(l))}
}

// signDraft signs the statement and checks it as its readers will. l is the log with
// the floor in it.
func (c *Client) signDraft(l *trust.Log, d *draft, seq uint64) (*clientv1.WriteOp, seal.Digest, error) {
	s := d.subject
	s.RecordUid, s.FolderUid = d.ref.Record.Bytes(), d.ref.Folder.Bytes()
	s.KeyCheck = seal.RecordKeyCheck(c.facts.OrgID, d.key, d.ref.Record).Bytes()
	s.Seq, s.Issued, s.Prev = seq, c.now().UnixMilli(), nil
	if d.former != nil {
		s.Prev = d.former.view.Statement.GetDigest()
	}
	signed, digest, err := trust.SignStatement(l, c.keys.Sign, s)
	if err != nil {
		return nil, digest, ownStatement(err)
	}
	opened, err := trust.OpenStatement(l, signed)
	if err == nil {
		err = trust.CheckLinks(l, opened, d.pool())
	}
	if err != nil {
		return nil, digest, ownStatement(err)
	}
	return &clientv1.WriteOp{Op: &clientv1.WriteOp_PutStatement{PutStatement: &clientv1.PutStatement{
		Ref: d.ref.Proto(), Seq: seq, Digest: digest.Bytes(), Prev: s.Prev, Links: linksOf(s),
		Blob: trust.SealStatement(c.facts.OrgID, d.key, d.ref.Record, signed),
	}}}, digest, nil
}

// ownStatement is an error of a statement that the caller wants to sign.
func ownStatement(err error) error {
	switch reason := trust.ReasonOf(err); reason {
	case trust.NotAllowed, trust.NotLinked, trust.SignerUnknown:
		return &Error{Class: Denied, Reason: string(reason), Err: err, Hint: reason.Hint()}
	case trust.Malformed:
		return &Error{Class: Invalid, Reason: "invalid", Err: err}
	}
	return err
}

// pool is whose rights a new statement is held against: none for a subject that stays as
// it was, since what a pool may read no longer keeps nobody from new keys.
func (d *draft) pool() seal.ID {
	r := d.subject.GetResource()
	if d.former != nil && d.former.checked != nil && proto.Equal(r, d.former.checked.GetResource()) {
		return seal.ID{}
	}
	return poolOf(d.subject)
}

func poolOf(s *trustv1.Statement) seal.ID { return idOr(s.GetResource().GetPoolId()) }

// linksOf are the clear hints by which the server schedules and prefetches.
func linksOf(s *trustv1.Statement) *clientv1.Links {
	if r := s.GetResource(); r != nil {
		return &clientv1.Links{AdminAccount: r.AdminAccount, PoolId: r.PoolId}
	}
	if a := s.GetAccount(); a != nil {
		return &clientv1.Links{Resource: a.Resource}
	}
	return nil
}

// checkPolicy refuses a new password policy by which no agent could make a password:
// else the account's next rotation would be the first to say so.
func (d *draft) checkPolicy() error {
	policy := d.subject.GetAccount().GetPolicy()
	if policy == nil || d.former != nil && proto.Equal(policy, d.former.Statement.GetAccount().GetPolicy()) {
		return nil
	}
	if d.subject.GetAccount().GetSecretKind() == SecretSSHKey {
		return invalid("", "a password policy says nothing of an ssh_key")
	}
	if err := password.Check(policy); err != nil {
		return &Error{Class: Invalid, Reason: "policy.impossible", Err: err, Hint: "a policy asks for 8 to 256 characters, of at least 10 different ones"}
	}
	return nil
}

// putDraft writes a statement with its floor, and what goes with it, in one call.
func (c *Client) putDraft(ctx context.Context, op string, d draft, with func(after *trust.Log) ([]*clientv1.WriteOp, error)) error {
	return c.putDrafts(ctx, op, []draft{d}, with)
}

func (c *Client) putDrafts(ctx context.Context, op string, drafts []draft, with func(after *trust.Log) ([]*clientv1.WriteOp, error)) error {
	for i := range drafts {
		if err := drafts[i].checkPolicy(); err != nil {
			return fail(op, err)
		}
	}
	floors := func(l *trust.Log) (ops []*trustv1.Op) {
		for _, d := range drafts {
			ops = append(ops, d.floor(l)...)
		}
		return ops
	}
	seqs := make([]uint64, len(drafts))
	statements := func(l *trust.Log) ([]*clientv1.WriteOp, error) {
		var ops []*clientv1.WriteOp
		for i := range drafts {
			put, _, err := c.signDraft(l, &drafts[i], seqs[i])
			if err != nil {
				return nil, err
			}
			ops = append(ops, put)
		}
		if with != nil {
			more, err := with(l)
			return append(ops, more...), err
		}
		return ops, nil
	}
	number := func(l *trust.Log) {
		for i := range drafts {
			seqs[i] = drafts[i].seq(l)
		}
	}
	if err := c.fresh(ctx); err != nil {
		return fail(op, err)
	}
	if len(floors(c.log)) == 0 {
		number(c.log)
		ops, err := statements(c.log)
		if err != nil {
			return fail(op, err)
		}
		_, err = call(ctx, c, op, c.conn.Write, &clientv1.WriteRequest{Ops: ops})
		return err
	}
	_, err := c.change(ctx, changeSpec{
		op:   op,
		ops:  func(l *trust.Log) ([]*trustv1.Op, error) { number(l); return floors(l), nil },
		with: statements,
	})
	return err
}

// accountOf is the account of a record to be changed: a copy of the statement's,
// or for a record without statement what its JSON says.
func accountOf(o *opened) *trustv1.Account {
	if a := proto.CloneOf(o.Statement.GetAccount()); a != nil {
		o.dropUnlinked(a)
		return a
	}
	return &trustv1.Account{Login: o.text("login"), SecretKind: SecretPassword, VerifyMode: "login"}
}

func resourceOf(o *opened) *trustv1.Resource {
	if r := proto.CloneOf(o.Statement.GetResource()); r != nil {
		o.dropUnlinkedOf(r)
		return r
	}
	r := &trustv1.Resource{}
	if h, ok := o.data.Host(); ok {
		r.Host = h.HostName
	}
	return r
}

// EditAccount signs the account's next statement with what change did to its
// subject. A record without a statement that holds begins with what its JSON
// says, so that change has to set at least the resource; what its signer had no right to
// name is left out, and change names it or another. A login that another account has
// on the resource is a Conflict, unless sameLogin says that this is meant.
func (c *Client) EditAccount(ctx context.Context, ref Ref, sameLogin bool, change func(*trustv1.Account) error) error {
	op := "change the account " + ref.String()
	return c.editStatement(ctx, op, ref, func(o *opened, d *draft) error {
		if o.Type != TypeAccount {
			return invalid("", "the record is of type %s, not %s", o.Type, TypeAccount)
		}
		a := accountOf(o)
		if err := change(a); err != nil {
			return err
		}
		if a.Resource == nil && len(o.Unlinked) > 0 {
			return o.linked("")
		}
		if err := errors.Join(textual("login", a.Login), textual("scope", a.Scope)); err != nil {
			return err
		}
		if err := c.checkFree(ctx, ref.Folder, o, o.data, a, sameLogin); err != nil {
			return err
		}
		d.setSubject(a)
		return nil
	})
}

// EditResource signs the resource's next statement with what change did to its
// subject.
func (c *Client) EditResource(ctx context.Context, ref Ref, change func(*trustv1.Resource) error) error {
	op := "change the resource " + ref.String()
	return c.editStatement(ctx, op, ref, func(o *opened, d *draft) error {
		if !isResource(o.Type) {
			return invalid("", "the record is of type %s, which is no resource", o.Type)
		}
		r := resourceOf(o)
		host := r.Host
		if err := change(r); err != nil {
			return err
		}
		if r.Host != host { // what was signed before this was checked may still be edited
			if err := checkHost(r.Host); err != nil {
				return err
			}
		}
		d.setSubject(r)
		return nil
	})
}

// editStatement reads the record anew and lets edit change it. Where somebody
// else signed meanwhile, the edit is made again on top of his.
func (c *Client) editStatement(ctx context.Context, op string, ref Ref, edit func(*opened, *draft) error) error {
	for attempt := 1; ; attempt++ {
		o, err := c.one(ctx, op, ref)
		if err != nil {
			return err
		}
		d := newDraft(o)
		if err := edit(o, &d); err != nil {
			return fail(op, err)
		}
		err = c.putDraft(ctx, op, d, c.copiesInto(o, &d))
		if ReasonOf(err) != "statement_conflict" || attempt == appendAttempts {
			return err
		}
	}
}

// copiesInto keeps the JSON's copies of host, port and login, which other
// secrets-manager clients read, in step with the statement. nil: nothing to do.
func (c *Client) copiesInto(o *opened, d *draft) func(*trust.Log) ([]*clientv1.WriteOp, error) {
	if o.view.Staged != nil {
		return nil // the record's data is a run's business now; agents do not read the copies
	}
	data, changed, err := withCopies(o.data, d.subject)
	if err != nil {
		return func(*trust.Log) ([]*clientv1.WriteOp, error) { return nil, err }
	}
	if !changed {
		return nil
	}
	return func(l *trust.Log) ([]*clientv1.WriteOp, error) {
		return c.replaceData(l, o, data, sameSecret(o))
	}
}

// withCopies is the record's JSON with the statement's host, port and login.
func withCopies(r *record.Record, s *trustv1.Statement) (*record.Record, bool, error) {
	out, err := cloneRecord(r)
	if err != nil {
		return nil, false, err
	}
	switch {
	case s.GetAccount() != nil:
		b, _ := r.Text("login")
		if string(b) == s.GetAccount().Login {
			return out, false, nil
		}
		return out, true, out.SetText("login", []byte(s.GetAccount().Login))
	case s.GetResource() != nil:
		want := hostOf(s.GetResource())
		if h, _ := r.Host(); h == want {
			return out, false, nil
		}
		return out, true, out.SetHost(want)
	}
	return out, false, nil
}

func hostOf(r *trustv1.Resource) record.Host {
	h := record.Host{HostName: r.Host}
	if r.Port != 0 {
		h.Port = fmt.Sprint(r.Port)
	}
	return h
}

func cloneRecord(r *record.Record) (*record.Record, error) {
	b, err := r.JSON()
	if err != nil {
		return nil, err
	}
	defer clear(b)
	return record.Parse(b)
}

// replaceData writes a record's new data; of an account whose value is in use
// also the signed result that keeps it so. same is nil where the data holds another
// secret.
func (c *Client) replaceData(l *trust.Log, o *opened, data *record.Record, same *trustv1.SameSecret) ([]*clientv1.WriteOp, error) {
	b, err := data.JSON()
	if err != nil {
		return nil, err
	}
	defer clear(b)
	box := trust.SealData(o.content.Key, b)
	ops := []*clientv1.WriteOp{{Op: &clientv1.WriteOp_PutRecord{PutRecord: &clientv1.PutRecord{
		Ref: o.Ref.Proto(), Kind: o.Type, KeyVersion: o.view.KeyVersion, Data: box, Revision: o.view.Revision,
	}}}}
	switch {
	case o.Type == TypeAccount && o.hidden():
		return nil, o.mayAttest() // unsigned, the new data would not be what the agent attests
	case o.Type != TypeAccount || !o.inUse():
		return ops, nil
	}
	attest, err := c.attest(l, o, seal.Hash(box), same, false)
	if err != nil {
		return nil, err
	}
	return append(ops, attest), nil
}

// attest signs that a value is what the caller wants agents to use. With same it is
// somebody else's word that is signed on.
func (c *Client) attest(l *trust.Log, o *opened, dataDigest seal.Digest, same *trustv1.SameSecret, adoption bool) (*clientv1.WriteOp, error) {
	if err := o.mayAttest(); err != nil && same != nil {
		return nil, err
	}
	seq, prev := lastValue(o)
	return c.signEdit(l, o.Ref, max(seq, o.known)+1, prev, dataDigest, same, adoption)
}

func (c *Client) signEdit(l *trust.Log, ref Ref, seq uint64, prev []byte, dataDigest seal.Digest, same *trustv1.SameSecret, adoption bool) (*clientv1.WriteOp, error) {
	signed, _, err := trust.SignResult(l, c.keys.Sign, &trustv1.Result{
		Phase: trustv1.Phase_PHASE_EDITED, By: c.facts.Entry.Bytes(), Cause: make([]byte, 32), Account: ref.Proto(),
		ValueSeq: seq, DataDigest: dataDigest.Bytes(), Prev: prev, Time: c.now().UnixMilli(), Same: same,
	})
	if err != nil {
		return nil, err
	}
	return &clientv1.WriteOp{Op: &clientv1.WriteOp_PutResult{PutResult: &clientv1.PutResult{
		Account: ref.Proto(), Signed: signed, Adoption: adoption,
	}}}, nil
}

// sameSecret says since when the record has the secret that it has, for an edit that
// leaves it. nil: nobody has attested the present data.
func sameSecret(o *opened) *trustv1.SameSecret {
	var newest *trust.Result
	if o.value != nil {
		newest = o.value.Result
	}
	if newest == nil || seal.Digest(newest.DataDigest) != o.content.DataDigest {
		// Somebody who is live no more may have set it: his own word says when.
		newest = &trust.Result{Result: claimedValue(o)}
	}
	if seal.Digest(newest.DataDigest) != o.content.DataDigest {
		return nil
	}
	seq, epoch := newest.SetBy()
	return &trustv1.SameSecret{ValueSeq: min(seq, newest.ValueSeq), LogEpoch: min(epoch, newest.LogEpoch)}
}

// claimedValue is what the result says by which the server has the record attested, of
// which nothing was checked but its form.
func claimedValue(o *opened) *trustv1.Result {
	signed := o.view.Attestation.GetSigned()
	var envelope trustv1.Signed
	r := &trustv1.Result{}
	if len(signed) == 0 || proto.Unmarshal(signed, &envelope) != nil || proto.Unmarshal(envelope.Body, r) != nil ||
		r.ValueSeq == 0 || r.ValueSeq >= 1<<62 || len(r.DataDigest) != len(seal.Digest{}) {
		return &trustv1.Result{DataDigest: seal.Digest{}.Bytes()}
	}
	return r
}

// lastValue is the number and the digest of the result that attests the record
// at the server, whether or not its word counts here: the next one follows it.
func lastValue(o *opened) (uint64, []byte) {
	var seq uint64
	var prev []byte
	if o.value != nil {
		seq, prev = o.value.Seq, o.value.Result.Digest.Bytes()
	}
	if r := claimedValue(o); r.ValueSeq > 0 && r.ValueSeq != seq {
		return max(seq, r.ValueSeq), nil
	}
	return seq, prev
}

// Pin puts the keys that a probe saw into the resource's statement: mode PIN for
// TLS keys, and the SSH host keys.
func (c *Client) Pin(ctx context.Context, ref Ref, p ProbeReply) error {
	if len(p.TLSKeys) == 0 && len(p.SSHKeys) == 0 {
		return invalid("pin the keys of "+ref.String(), "the probe saw no key")
	}
	return c.EditResource(ctx, ref, func(r *trustv1.Resource) error {
		if len(p.TLSKeys) > 0 {
			if r.Tls == nil {
				r.Tls = &trustv1.Tls{}
			}
			// The leaf's key: it stays when the certificate is renewed with it.
			r.Tls.Mode, r.Tls.SpkiSha256 = trustv1.TlsMode_TLS_MODE_PIN, [][]byte{p.TLSKeys[0].Bytes()}
		}
		if len(p.SSHKeys) > 0 {
			r.SshHostKeySha256, r.Tofu = nil, false
			for _, k := range p.SSHKeys {
				if !slices.ContainsFunc(r.SshHostKeySha256, func(b []byte) bool { return seal.Digest(b) == k }) {
					r.SshHostKeySha256 = append(r.SshHostKeySha256, k.Bytes())
				}
			}
		}
		return nil
	})
}

var errOutstanding = errors.New("a run's new value is staged for this account")

// settled refuses an edit while a run's new value is outstanding (4.6 step 6).
func (o *opened) settled(op string) error {
	if o.view.Staged == nil || o.view.Staged.Owner == "client" {
		return nil
	}
	return &Error{Class: Conflict, Reason: string(trust.RunOutstanding), Op: op, Err: errOutstanding, Hint: trust.RunOutstanding.Hint()}
}
