package client

import (
	"context"
	"errors"
	"iter"
	"slices"
	"strings"

	"github.com/rotunda-pam/rotunda/internal/record"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// pageSize is how many records one call brings.
const pageSize = 500

// opened is a record with what its writer needs: its key and what was served.
type opened struct {
	*Record
	view     *clientv1.RecordView
	content  *trust.Content   // nil: it does not open
	checked  *trust.Statement // nil: none that holds
	restored bool             // its statement is from before a restore, and is signed anew
	stripped bool             // it is served without statement, and has had one
	value    *trust.Value     // newest attestation whose word counts, nil: none
	pool     *seal.ID         // of the account's resource; nil: not known here
	withheld bool             // the caller may read the account's resource, and it is not served, or does not hold
	known    uint64           // number that the next value has to be above, beside the served one's
}

// get fetches and opens records, in the order asked; those that are not there are left out.
func (c *Client) get(ctx context.Context, refs []Ref) ([]*opened, error) {
	if err := c.fresh(ctx); err != nil {
		return nil, err
	}
	var out []*opened
	for part := range slices.Chunk(refs, pageSize) {
		views, err := c.fetch(ctx, part)
		if err != nil {
			return nil, err
		}
		list, err := c.open(ctx, views)
		if err != nil {
			return nil, err
		}
		out = append(out, list...)
	}
	return out, nil
}

// one fetches and opens one record that has to be there.
func (c *Client) one(ctx context.Context, op string, ref Ref) (*opened, error) {
	list, err := c.get(ctx, []Ref{ref})
	if err != nil {
		return nil, fail(op, err)
	}
	if len(list) == 0 {
		return nil, notFound(op, "there is no such record that you may read")
	}
	o := list[0]
	if o.content == nil {
		return nil, &Error{Class: Refused, Reason: o.Reason, Op: op, Err: errors.New("the record does not open"), Hint: trust.Reason(o.Reason).Hint()}
	}
	return o, nil
}

// fetch asks for records and gives them in the order asked.
func (c *Client) fetch(ctx context.Context, refs []Ref) ([]*clientv1.RecordView, error) {
	ask := make([]*trustv1.Ref, len(refs))
	for i, r := range refs {
		ask[i] = r.Proto()
	}
	answer, err := call(ctx, c, "fetch records", c.conn.GetRecords, &clientv1.GetRecordsRequest{Refs: ask})
	if err != nil {
		return nil, err
	}
	served := map[Ref]*clientv1.RecordView{}
	for _, v := range answer.Records {
		if r, err := refFrom(v.Ref); err == nil {
			served[r] = v
		}
	}
	var out []*clientv1.RecordView
	for _, r := range refs {
		if v := served[r]; v != nil {
			out = append(out, v)
		}
	}
	return out, nil
}

// open opens and checks records as served (4.6). What a later log may lift is checked again
// by that: this client's may be half a minute old.
func (c *Client) open(ctx context.Context, views []*clientv1.RecordView) ([]*opened, error) {
	known := c.log.Next()
	out, err := c.openByLog(ctx, views)
	if err == nil && slices.ContainsFunc(out, liftedByLog) {
		switch err := c.fetchLog(ctx); {
		case err != nil && ClassOf(err) != Unreachable:
			c.tellRecords(ctx, out)
			return nil, err
		case err == nil && c.log.Next() > known:
			if out, err = c.openByLog(ctx, views); err != nil {
				return out, err
			}
		}
	}
	if err == nil {
		c.tellRecords(ctx, out)
	}
	return out, err
}

// liftedByLog says whether a record was refused for what the log does not hold: a change
// that its signer knew of, the signer, or its right.
func liftedByLog(o *opened) bool {
	switch trust.Reason(o.Reason) {
	case trust.LogGap, trust.SignerUnknown, trust.NotAllowed:
		return true
	case trust.ValueUnattested:
		if o.State != Unconfirmed { // else nobody has signed for the value
			return true
		}
	}
	return o.Candidate != nil && o.Candidate.Reason == string(trust.CandidateUnattested)
}

// openByLog is open by the log as this client has it. Resources that accounts name and
// that are not among them are fetched, since whose word counts for a value depends on the
// resource's pool.
func (c *Client) openByLog(ctx context.Context, views []*clientv1.RecordView) ([]*opened, error) {
	var out []*opened
	keys := map[seal.ID]seal.Key{}
	for _, v := range views {
		ref, err := refFrom(v.GetRef()) // a view may be missing where a record is part of an answer
		if err != nil || ref.IsZero() {
			return nil, badServer("open records", "a record without its name")
		}
		out = append(out, &opened{view: v, Record: &Record{
			Ref: ref, Type: v.Kind, Revision: v.Revision, Updated: when(v.Updated), Title: ref.Record.String(),
		}})
		if _, ok := keys[ref.Folder]; ok {
			continue
		}
		if f, ok := c.log.Folder(ref.Folder); !ok || f.Version < v.KeyVersion {
			// Made or re-keyed a moment ago, or by the server.
			if err := c.fetchLog(ctx); err != nil {
				return nil, err
			}
			if _, ok := c.log.Folder(ref.Folder); !ok {
				out[len(out)-1].Reason = string(trust.FolderUnknown)
				continue
			}
		}
		key, _, err := c.folderKey(ctx, ref.Folder)
		switch {
		case err == nil:
			keys[ref.Folder] = key
		case ClassOf(err) == Unreachable, ClassOf(err) == Internal:
			return nil, err
		default:
			out[len(out)-1].Reason = ReasonOf(err)
		}
	}
	err := c.memory.work(func(m *memoryTx) error {
		for _, o := range out {
			key, ok := keys[o.Ref.Folder]
			if !ok {
				o.State = Broken
				if o.Reason == "" {
					o.Reason = "folder_key_missing"
				}
				continue
			}
			if err := c.openOne(m, o, key); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fail("open records", err)
	}
	pools, err := c.poolsOf(ctx, out)
	if err != nil {
		return nil, err
	}
	err = c.memory.work(func(m *memoryTx) error {
		for _, o := range out {
			if err := c.judgeValue(m, o, pools); err != nil {
				return err
			}
			c.judgeLinks(o)
		}
		return nil
	})
	if err != nil {
		return out, fail("open records", err)
	}
	return out, nil
}

func servedOf(o *opened) trust.Served {
	s := trust.Served{
		Ref: o.Ref, Kind: statementKind(o.view.Kind), RecordKey: o.view.RecordKey, Data: o.view.Data,
		Statement: o.view.Statement.GetBlob(), Attestation: o.view.Attestation.GetSigned(),
	}
	if last := o.view.Last.GetSigned(); len(last) > 0 {
		s.Recent = [][]byte{last}
	}
	return s
}

// statementKind is the kind of statement that a record of a type has.
func statementKind(recordType string) trustv1.RecordKind {
	switch {
	case recordType == TypeAccount:
		return trustv1.RecordKind_RECORD_KIND_ACCOUNT
	case isResource(recordType):
		return trustv1.RecordKind_RECORD_KIND_RESOURCE
	case recordType == TypeScript:
		return trustv1.RecordKind_RECORD_KIND_SCRIPT
	}
	return trustv1.RecordKind_RECORD_KIND_UNSPECIFIED
}

// openOne is steps 1 to 6 of 4.2 for one record; only an error of the memory is an error.
func (c *Client) openOne(m *memoryTx, o *opened, folderKey seal.Key) error {
	served := servedOf(o)
	content, err := trust.OpenContent(c.log, folderKey, served)
	if err != nil {
		return o.refused(Broken, err)
	}
	data, err := record.Parse(content.Data)
	clear(content.Data)
	if err != nil {
		o.State, o.Reason = Broken, string(trust.RecordCorrupt)
		return nil
	}
	o.content, o.data = content, data
	o.Title = data.Title()
	c.names.note(o.Ref.String(), o.Title)
	// The type is the writer's, inside the encryption; the server's is a hint.
	if t := data.Type(); t != "" {
		o.Type = t
	}
	served.Kind = statementKind(o.Type)
	if len(served.Statement) == 0 {
		// The type is the word of whoever wrote the data last: it does not say that a
		// statement, which others have signed, was never there.
		seen, err := m.Statement(o.Ref)
		if err != nil {
			return err
		}
		o.stripped = seen.Seq > 0 || c.log.Floor(o.Ref) > 0
		if !o.stripped && served.Kind == trustv1.RecordKind_RECORD_KIND_UNSPECIFIED {
			o.State = Kept
			return nil
		}
	}
	rec, err := trust.OpenRecord(c.log, m, folderKey, served)
	switch trust.ReasonOf(err) {
	case trust.RecordUnsigned, trust.SignerUnknown, trust.NotAllowed:
		return o.refused(Unsigned, err)
	case trust.StatementRollback:
		return o.refused(RolledBack, err)
	case "":
	default:
		return o.refused(Broken, err)
	}
	if err != nil {
		return err
	}
	clear(rec.Data)
	o.checked = rec.Statement
	o.Statement, o.StatementDigest = rec.Statement.Statement, rec.Statement.Digest
	o.SignedBy = rec.Statement.Signer.ID
	o.SignedByName = c.log.FullName(rec.Statement.Signer)
	o.State = InUse
	return nil
}

// refused notes a failed check as the record's state; any other error is one.
func (o *opened) refused(state ValueState, err error) error {
	reason := trust.ReasonOf(err)
	if reason == "" {
		return err
	}
	o.State, o.Reason = state, string(reason)
	return nil
}

// poolsOf finds the pool of each account's resource. A resource that the caller may not
// read, that the server withholds, or whose statement does not hold has none here.
func (c *Client) poolsOf(ctx context.Context, list []*opened) (map[Ref]seal.ID, error) {
	pools := map[Ref]seal.ID{}
	have := map[Ref]bool{}
	for _, o := range list {
		have[o.Ref] = true
		if r := o.Statement.GetResource(); r != nil {
			pools[o.Ref] = idOr(r.PoolId)
		}
	}
	var ask []Ref
	for _, o := range list {
		if a := o.Statement.GetAccount(); a != nil {
			r, err := refFrom(a.Resource)
			if err == nil && !have[r] && c.log.Roles(c.facts.Entry, r.Folder).Has(Read) {
				have[r] = true
				ask = append(ask, r)
			}
		}
	}
	for part := range slices.Chunk(ask, pageSize) {
		views, err := c.fetch(ctx, part)
		if err != nil {
			return nil, err
		}
		resources, err := c.open(ctx, views)
		if err != nil {
			return nil, err
		}
		for _, o := range resources {
			if r := o.Statement.GetResource(); r != nil {
				pools[o.Ref] = idOr(r.PoolId)
			}
		}
	}
	return pools, nil
}

// judgeValue is step 7 of 4.2, and the candidate, of an account whose statement holds.
func (c *Client) judgeValue(m *memoryTx, o *opened, pools map[Ref]seal.ID) error {
	a := o.Statement.GetAccount()
	if a == nil {
		return nil
	}
	resource, err := refFrom(a.Resource)
	if err != nil {
		return nil // the statement's own check has refused it
	}
	pool, known := pools[resource]
	if known {
		o.pool = &pool
	}
	o.withheld = !known && c.log.Roles(c.facts.Entry, resource.Folder).Has(Read)
	v, err := trust.CheckValue(c.log, m, o.content, servedOf(o), pool, c.now())
	o.value = v
	if v != nil {
		o.Attested = v.Result.Result
		o.PoolUnknown = !known && v.Result.Signer.Kind == KindAgent
	}
	switch reason := trust.ReasonOf(err); {
	case err == nil && o.PoolUnknown && o.withheld:
		// An honest server shows the resource to whoever may read it, as a rule with the key
		// that opens it: by keeping it back, another would have the word of any pool's agent
		// count.
		o.State, o.Reason, o.Attested = Unattested, PoolUnknown, nil
	case err == nil:
		o.State = InUse
	case reason == trust.ValueRollback:
		o.State, o.Reason = RolledBack, string(reason)
	case reason == trust.ValueUnattested && v != nil:
		o.State, o.Reason = EditedOutside, string(reason)
	case reason == trust.ValueUnattested && len(o.view.Attestation.GetSigned()) > 0:
		o.State, o.Reason = Unattested, string(reason)
	case reason == trust.ValueUnattested:
		o.State, o.Reason = Unconfirmed, string(reason)
	case reason != "":
		o.State, o.Reason = Broken, string(reason)
	default:
		return err
	}
	c.openCandidate(o, pool)
	return nil
}

// openCandidate shows a staged value. It is never the one to log in with.
func (c *Client) openCandidate(o *opened, pool seal.ID) {
	s := o.view.Staged
	if s == nil {
		return
	}
	o.Candidate = &Candidate{RunID: idOr(s.RunId), Owner: s.Owner, Staged: when(s.Time)}
	if b, err := seal.OpenGCM(o.content.Key, s.Data, nil); err == nil {
		data, err := record.Parse(b)
		clear(b)
		if err == nil {
			o.Candidate.Value, _ = secretOf(data)
		}
	}
	if s.Owner == "client" {
		return // it signs nothing
	}
	result, err := trust.OpenResult(c.log, s.Result)
	if err == nil {
		o.Candidate.by = result.Signer.ID
		err = trust.CheckWord(c.log, result, o.Ref, pool)
	}
	switch {
	case err != nil, result.Phase != trustv1.Phase_PHASE_STAGED, seal.Digest(result.DataDigest) != seal.Hash(s.Data), o.Candidate.Value.Len() == 0:
		o.Candidate.Reason = string(trust.CandidateUnattested)
	case o.withheld:
		o.Candidate.Reason = PoolUnknown
	case o.value != nil && result.ValueSeq <= o.value.Seq:
		o.Candidate.Reason = string(trust.CandidateRollback)
	}
}

// Records walks the records of a folder (zero: all that the caller reads), of
// the types given (none: all). A record that does not open comes with State
// Broken; the error is one of the walk.
func (c *Client) Records(ctx context.Context, folder seal.ID, types ...string) iter.Seq2[*Record, error] {
	return func(yield func(*Record, error) bool) {
		err := c.walk(ctx, folder, types, func(o *opened) bool { return yield(o.Record, nil) })
		if err != nil {
			yield(nil, err)
		}
	}
}

// walk opens records page by page until f says stop.
func (c *Client) walk(ctx context.Context, folder seal.ID, types []string, f func(*opened) bool) error {
	q := &clientv1.ListRecordsRequest{Kinds: types, Page: &clientv1.Page{Size: pageSize}}
	if !folder.IsZero() {
		q.FolderUid = folder.Bytes()
	}
	return c.pages(ctx, q, func(views []*clientv1.RecordView) (bool, error) {
		list, err := c.open(ctx, views)
		if err != nil {
			return false, err
		}
		for _, o := range list {
			if !f(o) {
				return false, nil
			}
		}
		return true, nil
	})
}

// pages lists records page by page until f says stop.
func (c *Client) pages(ctx context.Context, q *clientv1.ListRecordsRequest, f func([]*clientv1.RecordView) (bool, error)) error {
	if err := c.fresh(ctx); err != nil {
		return err
	}
	for {
		page, err := call(ctx, c, "list records", c.conn.ListRecords, q)
		if err != nil {
			return err
		}
		if on, err := f(page.Records); err != nil || !on {
			return err
		}
		if page.Next == "" || page.Next == q.Page.Token {
			return nil
		}
		q.Page.Token = page.Next
	}
}

// Get fetches and opens records; those that do not exist are left out.
func (c *Client) Get(ctx context.Context, refs ...Ref) ([]*Record, error) {
	list, err := c.get(ctx, refs)
	if err != nil {
		return nil, err
	}
	out := make([]*Record, len(list))
	for i, o := range list {
		out[i] = o.Record
	}
	return out, nil
}

// FindRecord finds one record by "FOLDER/RECORD" (names or uids), a uid, or a
// title. Titles are known to people's clients only: finding by title reads the
// folder's records, or all; finding by FOLDER_UID/RECORD_UID reads one.
func (c *Client) FindRecord(ctx context.Context, nameOrUID string, types ...string) (*Record, error) {
	op := "find " + nameOrUID
	if err := c.fresh(ctx); err != nil {
		return nil, err
	}
	folder := seal.ID{}
	name := nameOrUID
	if before, after, ok := strings.Cut(nameOrUID, "/"); ok {
		f, errFolder := seal.ParseID(before)
		r, errRecord := seal.ParseID(after)
		if errFolder == nil && errRecord == nil {
			if list, err := c.get(ctx, []Ref{{Folder: f, Record: r}}); err != nil || len(list) == 1 {
				return first(list, err)
			}
		}
		found, err := c.FindFolder(ctx, before)
		switch {
		case err == nil:
			folder, name = found.UID, after
		case ClassOf(err) != NotFound:
			return nil, err
		default:
			// A title may hold a slash.
		}
	}
	bearers, err := c.bearers(ctx, folder, name, types)
	if err != nil {
		return nil, err
	}
	found, err := c.Get(ctx, bearers...)
	if err != nil {
		return nil, err
	}
	for _, r := range found {
		if r.Ref.Record.String() == name {
			return r, nil
		}
	}
	switch len(found) {
	case 0:
		if others, err := c.bearers(ctx, folder, name, nil); err == nil && len(types) > 0 && len(others) > 0 {
			return nil, notFound(op, "the record that is called so is of another type: wanted is %s", strings.Join(types, ", "))
		}
		return nil, notFound(op, "there is no such record that you may read")
	case 1:
		return found[0], nil
	}
	return nil, ambiguous(op, len(found), func(n int) string { return found[n].Ref.String() })
}

// bearers are the records whose title or uid that is. Of all others nothing is checked:
// there may be a hundred thousand.
func (c *Client) bearers(ctx context.Context, folder seal.ID, name string, types []string) (found []Ref, err error) {
	keys := map[seal.ID]seal.Key{} // zero: this client has none, so that it knows no titles there
	q := &clientv1.ListRecordsRequest{Kinds: types, DataOnly: true, Page: &clientv1.Page{Size: pageSize}}
	if !folder.IsZero() {
		q.FolderUid = folder.Bytes()
	}
	err = c.pages(ctx, q, func(views []*clientv1.RecordView) (bool, error) {
		for _, v := range views {
			ref, err := refFrom(v.Ref)
			if err != nil {
				return false, badServer("find a record", "a record without its name")
			}
			key, known := keys[ref.Folder]
			if !known {
				if f, ok := c.log.Folder(ref.Folder); !ok || f.Version < v.KeyVersion { // made or re-keyed a moment ago
					if err := c.fetchLog(ctx); err != nil {
						return false, err
					}
				}
				key, _, err = c.folderKey(ctx, ref.Folder)
				if class := ClassOf(err); err != nil && (class == Unreachable || class == Internal) {
					return false, err
				}
				keys[ref.Folder] = key
			}
			if ref.Record.String() == name || titleOf(key, v) == name {
				found = append(found, ref)
			}
		}
		return true, nil
	})
	return found, err
}

// titleOf is what a record's writer calls it; "" where the key does not open it.
func titleOf(folderKey seal.Key, v *clientv1.RecordView) string {
	key, err := seal.UnwrapKey(folderKey, v.RecordKey)
	if err != nil {
		return ""
	}
	defer key.Wipe()
	b, err := seal.OpenGCM(key, v.Data, nil)
	if err != nil {
		return ""
	}
	defer clear(b)
	r, err := record.Parse(b)
	if err != nil {
		return ""
	}
	return r.Title()
}

func first(list []*opened, err error) (*Record, error) {
	if err != nil {
		return nil, err
	}
	return list[0].Record, nil
}

// Reveal tells the audit record that a person looked at a secret.
func (c *Client) Reveal(ctx context.Context, ref Ref) error {
	_, err := call(ctx, c, "note that "+ref.String()+" was shown", c.conn.Write, &clientv1.WriteRequest{Ops: []*clientv1.WriteOp{
		{Op: &clientv1.WriteOp_NoteEvent{NoteEvent: &clientv1.NoteEvent{Name: "record.revealed", Record: ref.Proto()}}},
	}})
	return err
}

// History lists former values, newest first.
func (c *Client) History(ctx context.Context, ref Ref) ([]HistoryValue, error) {
	op := "list the history of " + ref.String()
	if err := c.fresh(ctx); err != nil {
		return nil, err
	}
	folderKey, _, err := c.folderKey(ctx, ref.Folder)
	if err != nil {
		return nil, fail(op, err)
	}
	var recordKey *seal.Key // what was written before a re-keying is under it
	var out []HistoryValue
	token := ""
	for {
		page, err := call(ctx, c, op, c.conn.ListHistory, &clientv1.ListHistoryRequest{Ref: ref.Proto(), Page: &clientv1.Page{Size: pageSize, Token: token}})
		if err != nil {
			return nil, err
		}
		for _, v := range page.History {
			if v.UnderRecord {
				if recordKey == nil {
					o, err := c.one(ctx, op, ref)
					if err != nil {
						return nil, err
					}
					recordKey = &o.content.Key
				}
				v.RecordKey = rewrap(folderKey, v.RecordKey, *recordKey)
			}
			out = append(out, c.historyValue(ref, folderKey, v))
		}
		if page.Next == "" || page.Next == token {
			return out, nil
		}
		token = page.Next
	}
}

func (c *Client) historyValue(ref Ref, folderKey seal.Key, v *clientv1.HistoryView) HistoryValue {
	h := HistoryValue{Revision: v.Revision, Time: when(v.Time), Why: v.Why, RunID: idOr(v.RunId)}
	content, err := trust.OpenContent(c.log, folderKey, trust.Served{Ref: ref, RecordKey: v.RecordKey, Data: v.Data})
	if err != nil {
		h.Reason = string(trust.ReasonOf(err))
		return h
	}
	defer clear(content.Data)
	if h.data, err = record.Parse(content.Data); err != nil {
		h.Reason = string(trust.RecordCorrupt)
		return h
	}
	if len(v.Result) > 0 {
		r, err := trust.OpenResult(c.log, v.Result)
		if err == nil {
			err = trust.CheckWord(c.log, r, ref, seal.ID{}) // of a result that ends a run, too: it names no value
		}
		if err != nil {
			h.Reason = string(trust.ReasonOf(err))
			return h
		}
		h.Attested = seal.Digest(r.DataDigest) == content.DataDigest
	}
	return h
}
