package client

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/rotunda-pam/rotunda/internal/record"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

// maxTitle bounds a record's title, in bytes.
const maxTitle = 1024

// newRecord makes the ops of a new record: its data, its statement (subject nil:
// none) and, of an account, the result that lets agents use its value.
func (c *Client) newRecord(l *trust.Log, folder seal.ID, folderKey seal.Key, version uint32, data *record.Record, subject any, attested bool) (Ref, []*clientv1.WriteOp, error) {
	ref, key := Ref{Folder: folder, Record: seal.NewID()}, seal.NewKey()
	defer key.Wipe()
	if data.Title() == "" || len(data.Title()) > maxTitle || len(data.Notes()) > MaxNotes {
		return ref, nil, invalid("", "a record has a title of 1 to %d bytes, and at most %d bytes of notes", maxTitle, MaxNotes)
	}
	b, err := data.JSON()
	if err != nil {
		return ref, nil, err
	}
	defer clear(b)
	box := trust.SealData(key, b)
	put := &clientv1.PutRecord{
		Ref: ref.Proto(), Kind: data.Type(), RecordKey: trust.SealRecordKey(folderKey, key), KeyVersion: version, Data: box,
	}
	ops := []*clientv1.WriteOp{{Op: &clientv1.WriteOp_PutRecord{PutRecord: put}}}
	if subject == nil {
		return ref, ops, nil
	}
	d := draft{ref: ref, key: key, subject: &trustv1.Statement{}}
	d.setSubject(subject)
	if err := d.checkPolicy(); err != nil {
		return ref, nil, err
	}
	statement, _, err := c.signDraft(l, &d, d.seq(l))
	if err != nil {
		return ref, nil, err
	}
	ops = append(ops, statement)
	if attested {
		edited, err := c.signEdit(l, ref, 1, nil, seal.Hash(box), nil, false)
		if err != nil {
			return ref, nil, err
		}
		ops = append(ops, edited)
	}
	return ref, ops, nil
}

func (c *Client) addRecord(ctx context.Context, op string, folder seal.ID, data *record.Record, subject any, sameLogin bool) (Ref, error) {
	key, version, err := c.folderKey(ctx, folder)
	if err != nil {
		return Ref{}, fail(op, err)
	}
	account, attested := subject.(*trustv1.Account)
	if err := c.checkFree(ctx, folder, nil, data, account, sameLogin); err != nil {
		return Ref{}, fail(op, err)
	}
	ref, ops, err := c.newRecord(c.log, folder, key, version, data, subject, attested)
	if err != nil {
		return Ref{}, fail(op, err)
	}
	_, err = call(ctx, c, op, c.conn.Write, &clientv1.WriteRequest{Ops: ops})
	return ref, err
}

// AddLogin adds a record of type login.
func (c *Client) AddLogin(ctx context.Context, s LoginSpec) (Ref, error) {
	op := "add the login " + s.Title
	data, err := loginData(s)
	if err != nil {
		return Ref{}, fail(op, err)
	}
	return c.addRecord(ctx, op, s.Folder, data, nil, false)
}

func loginData(s LoginSpec) (*record.Record, error) {
	r, err := newData(TypeLogin, s.Title, s.Notes)
	if err != nil {
		return nil, err
	}
	return r, errors.Join(
		setLine(r, "login", s.Login),
		setSecret(r, SecretPassword, s.Secret, ""),
		setLine(r, "url", s.URL))
}

// newData is a record's data with its title and notes.
func newData(kind, title, notes string) (*record.Record, error) {
	if err := errors.Join(textual("title", title), textual("notes", notes)); err != nil {
		return nil, err
	}
	r := record.New(kind, title)
	if notes != "" {
		r.SetNotes(notes)
	}
	return r, nil
}

// setLine sets a field that people read.
func setLine(r *record.Record, field, value string) error {
	if err := textual(field, value); err != nil {
		return err
	}
	return r.SetText(field, []byte(value))
}

// AddAccount adds an account with its first statement. Its present secret, or that
// there is none yet, is attested, so that agents may act on it.
func (c *Client) AddAccount(ctx context.Context, s AccountSpec) (Ref, error) {
	op := "add the account " + s.Title
	data, account, err := accountData(s)
	if err != nil {
		return Ref{}, fail(op, err)
	}
	return c.addRecord(ctx, op, s.Folder, data, account, s.SameLogin)
}

func accountData(s AccountSpec) (*record.Record, *trustv1.Account, error) {
	if s.Resource.IsZero() {
		return nil, nil, invalid("", "an account names the resource where it logs in")
	}
	if s.SecretKind == "" {
		s.SecretKind = SecretPassword
	}
	if !slices.Contains([]string{SecretPassword, SecretSSHKey, SecretAPIKey, SecretToken}, s.SecretKind) {
		return nil, nil, invalid("", "a secret is a password, ssh_key, api_key or token, not %q", s.SecretKind)
	}
	if s.VerifyMode == "" {
		s.VerifyMode = "login"
	}
	r, err := newData(TypeAccount, s.Title, s.Notes)
	if err != nil {
		return nil, nil, err
	}
	if err := errors.Join(setLine(r, "login", s.Login), textual("scope", s.Scope)); err != nil {
		return nil, nil, err
	}
	if s.URL != "" {
		if err := setLine(r, "url", s.URL); err != nil {
			return nil, nil, err
		}
	}
	if s.Secret.Len() == 0 && s.PublicKey != "" {
		return nil, nil, invalid("", "a public key comes with its private key")
	}
	if s.Secret.Len() > 0 {
		if err := setSecret(r, s.SecretKind, s.Secret, s.PublicKey); err != nil {
			return nil, nil, err
		}
	}
	if s.KeyID != "" {
		if s.Secret.Len() == 0 {
			return nil, nil, invalid("", "the id of a key comes with the key")
		}
		if err := setKeyID(r, s.SecretKind, s.KeyID); err != nil {
			return nil, nil, err
		}
	}
	return r, &trustv1.Account{
		Resource: s.Resource.Proto(), Login: s.Login, Scope: s.Scope, SecretKind: s.SecretKind, Policy: s.Policy,
		VerifyMode: s.VerifyMode, MaxProbe: s.MaxProbe, Dependents: s.Dependents, DrainS: uint32(s.Drain / time.Second),
	}, nil
}

// AddResource adds a resource with its first statement.
func (c *Client) AddResource(ctx context.Context, s ResourceSpec) (Ref, error) {
	op := "add the resource " + s.Title
	if err := checkHost(s.Host); err != nil {
		return Ref{}, fail(op, err)
	}
	if !isResource(s.Type) {
		return Ref{}, invalid(op, "a resource is of type %s, %s or %s, not %q", TypeMachine, TypeDatabase, TypeDirectory, s.Type)
	}
	if err := c.fresh(ctx); err != nil {
		return Ref{}, err
	}
	if e, ok := c.log.Entry(s.Pool); !ok || e.Kind != trustv1.EntryKind_ENTRY_KIND_POOL {
		return Ref{}, invalid(op, "a resource names the pool of agents that reaches it")
	}
	res := &trustv1.Resource{
		PoolId: s.Pool.Bytes(), Plugin: s.Plugin, Host: s.Host, Port: uint32(s.Port), Tls: s.TLS, Tofu: s.TOFU,
		Extras: s.Extras, Config: s.Config, Concurrency: uint32(max(s.Concurrency, 0)), Rotator: s.Rotator, Discoverer: s.Discoverer,
	}
	for _, k := range s.SSHHostKeys {
		res.SshHostKeySha256 = append(res.SshHostKeySha256, k.Bytes())
	}
	if !s.Via.IsZero() {
		res.Via = s.Via.Proto()
	}
	if !s.AdminAccount.IsZero() {
		res.AdminAccount = s.AdminAccount.Proto()
	}
	data, err := newData(s.Type, s.Title, s.Notes)
	if err != nil {
		return Ref{}, fail(op, err)
	}
	if err := data.SetHost(hostOf(res)); err != nil {
		return Ref{}, fail(op, err)
	}
	return c.addRecord(ctx, op, s.Folder, data, res, false)
}

// EditRecord changes values. On an account it signs the edited result, so that agents use the value.
func (c *Client) EditRecord(ctx context.Context, ref Ref, e RecordEdit) error {
	op := "edit " + ref.String()
	o, err := c.one(ctx, op, ref)
	if err != nil {
		return err
	}
	if err := o.settled(op); err != nil {
		return err
	}
	if e.Revision != 0 && e.Revision != o.Revision {
		return &Error{
			Class: Conflict, Reason: "out_of_sync", Op: op, Err: fmt.Errorf("the record has revision %d, not %d", o.Revision, e.Revision),
			Hint: "look at the record again, then edit it",
		}
	}
	data, err := cloneRecord(o.data)
	if err != nil {
		return fail(op, err)
	}
	if err := e.apply(data, o); err != nil {
		return fail(op, err)
	}
	if err := c.checkFree(ctx, ref.Folder, o, data, o.Statement.GetAccount(), e.SameLogin); err != nil {
		return fail(op, err)
	}
	same := sameSecret(o)
	if e.Secret != nil && o.Statement.GetAccount() != nil {
		o.State, same = InUse, nil // the person says so, and signs
		if o.known, err = c.knownValue(ctx, op, o); err != nil {
			return err
		}
	}
	ops, err := c.replaceData(c.log, o, data, same)
	if err != nil {
		return fail(op, err)
	}
	_, err = call(ctx, c, op, c.conn.Write, &clientv1.WriteRequest{Ops: ops})
	return err
}

// sameAs says whether the edit leaves the secret as it is.
func (e RecordEdit) sameAs(o *opened) bool {
	secret, ok := o.Secret()
	return ok && secret.Equal(*e.Secret)
}

func (e RecordEdit) apply(data *record.Record, o *opened) error {
	if e.Title != nil {
		if *e.Title == "" || len(*e.Title) > maxTitle {
			return invalid("", "a title has 1 to %d bytes", maxTitle)
		}
		if err := textual("title", *e.Title); err != nil {
			return err
		}
		data.SetTitle(*e.Title)
	}
	if e.Notes != nil {
		if len(*e.Notes) > MaxNotes {
			return invalid("", "notes have at most %d bytes", MaxNotes)
		}
		if err := textual("notes", *e.Notes); err != nil {
			return err
		}
		data.SetNotes(*e.Notes)
	}
	if e.Login != nil {
		if o.Statement != nil {
			return invalid("", "the login of an account stands in its statement: change the account")
		}
		if err := setLine(data, "login", *e.Login); err != nil {
			return err
		}
	}
	if e.URL != nil {
		if err := setLine(data, "url", *e.URL); err != nil {
			return err
		}
	}
	if e.Secret == nil && e.PublicKey == nil && e.KeyID == nil {
		return nil
	}
	if isResource(o.Type) {
		return invalid("", "a resource holds no secret: its administrator's account does")
	}
	kind := SecretPassword
	if a := o.Statement.GetAccount(); a != nil && a.SecretKind != "" {
		kind = a.SecretKind
	}
	switch {
	case e.KeyID != nil:
		if err := setKeyID(data, kind, *e.KeyID); err != nil {
			return err
		}
		if e.Secret == nil && e.PublicKey == nil {
			return nil
		}
	case e.Secret != nil && data.Labelled(record.KeyID) != "" && !e.sameAs(o):
		return &Error{
			Class: Invalid, Reason: "key_id.missing", Err: errors.New("the record names the former key's id, and the key is another now"),
			Hint: "give the new key's id with it: `rotunda record edit RECORD --key-id ID --password-file FILE`",
		}
	}
	var secret sdk.Secret
	if e.Secret != nil {
		secret = *e.Secret
	} else {
		secret, _ = o.Secret() // a public key alone: the one that it must belong to
	}
	var public string
	if e.PublicKey != nil {
		public = *e.PublicKey
	}
	return setSecret(data, kind, secret, public)
}

// RemoveRecord deletes a record; one with a candidate outstanding is a Conflict. Whether
// others name it is the caller's to look at (Uses). A floor withdraws its statement, so
// that no server can bring it back.
func (c *Client) RemoveRecord(ctx context.Context, ref Ref) error {
	op := "remove " + ref.String()
	list, err := c.get(ctx, []Ref{ref})
	if err != nil {
		return fail(op, err)
	}
	if len(list) == 0 {
		return notFound(op, "there is no such record that you may read")
	}
	o := list[0]
	if err := o.settled(op); err != nil {
		return err
	}
	remove := []*clientv1.WriteOp{{Op: &clientv1.WriteOp_DeleteRecord{DeleteRecord: &clientv1.DeleteRecord{Ref: ref.Proto(), Revision: o.Revision}}}}
	if o.view.Statement == nil {
		_, err := call(ctx, c, op, c.conn.Write, &clientv1.WriteRequest{Ops: remove})
		return err
	}
	_, err = c.change(ctx, changeSpec{
		op: op,
		ops: func(l *trust.Log) ([]*trustv1.Op, error) {
			return []*trustv1.Op{trust.FloorOp(ref, max(o.view.Statement.Seq, l.Floor(ref))+1)}, nil
		},
		with: func(*trust.Log) ([]*clientv1.WriteOp, error) { return remove, nil },
	})
	return err
}

// Adopt makes the value that is served now (by a machine client, or unattested)
// one that agents use, by signing for it. Revision must be the one that the
// person saw. The value of another account's login (the same ssh key) is a Conflict,
// unless sameLogin says that this is meant.
func (c *Client) Adopt(ctx context.Context, ref Ref, revision int64, sameLogin bool) error {
	op := "adopt " + ref.String()
	o, err := c.one(ctx, op, ref)
	if err != nil {
		return err
	}
	switch {
	case o.Revision != revision:
		return &Error{
			Class: Conflict, Reason: "out_of_sync", Op: op, Err: fmt.Errorf("the record has revision %d, you saw %d", o.Revision, revision),
			Hint: "look at the record again, then adopt it",
		}
	case o.Statement.GetAccount() == nil:
		return &Error{
			Class: Invalid, Reason: string(trust.RecordUnsigned), Op: op, Err: fmt.Errorf("%s has no statement of an account that holds", o.Title),
			Hint: "sign one first, by naming the resource where it logs in: `rotunda record edit " + o.Title + " --resource RESOURCE`",
		}
	case o.inUse() && !o.PoolUnknown:
		return nil
	}
	if err := o.settled(op); err != nil {
		return err
	}
	if err := checkPair(o); err != nil {
		return fail(op, err)
	}
	if !sameLogin {
		t, err := c.takenIn(ctx, seal.ID{}, ref)
		if err == nil {
			err = t.login(o.Statement.GetAccount(), o.PublicKey())
		}
		if err != nil {
			return fail(op, err)
		}
	}
	put, err := c.attest(c.log, o, o.content.DataDigest, nil, true)
	if err != nil {
		return fail(op, err)
	}
	_, err = call(ctx, c, op, c.conn.Write, &clientv1.WriteRequest{Ops: []*clientv1.WriteOp{put}})
	return err
}

// Bounds of an import.
const (
	importBatch  = 200 // records a call
	importFields = 32
)

// ImportCSV adds records from CSV with a header of: title, login, password, url,
// notes, and for accounts resource (name or uid), scope, kind, key_id. The password of the kind
// ssh_key is the private key, whose public half follows from it. A line with a resource
// becomes an account, one without a login. progress (or nil) is told how many lines are
// done.
func (c *Client) ImportCSV(ctx context.Context, folder seal.ID, r io.Reader, progress func(lines int)) (ImportReport, error) {
	const op = "import"
	var report ImportReport
	key, version, err := c.folderKey(ctx, folder)
	if err != nil {
		return report, fail(op, err)
	}
	in := csv.NewReader(r)
	in.FieldsPerRecord, in.ReuseRecord = -1, true
	header, err := in.Read()
	if errors.Is(err, io.EOF) {
		return report, invalid(op, "the file is empty")
	}
	if err != nil {
		return report, &Error{Class: Invalid, Reason: "bad_csv", Op: op, Err: errors.New("line 1, the header, is not CSV")}
	}
	columns, err := importColumns(header)
	if err != nil {
		return report, fail(op, err)
	}
	im := &importer{c: c, folder: folder, key: key, version: version, columns: columns, width: len(columns), resources: map[string]Ref{}}
	if im.taken, err = c.takenIn(ctx, seal.ID{}, Ref{}); err != nil {
		return report, fail(op, err)
	}
	for lines := 1; ; lines++ {
		fields, err := in.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			// The text of a broken line may hold a password: only its place is told.
			var parse *csv.ParseError
			if !errors.As(err, &parse) {
				return report, fail(op, err)
			}
			report.Failed = append(report.Failed, ImportFailure{parse.StartLine, &Error{
				Class: Invalid, Reason: "bad_csv", Err: errors.New("the line is not CSV: a quotation mark inside a field is written twice, and the field stands in quotation marks"),
			}})
			continue
		}
		line, _ := in.FieldPos(0)
		if err := im.add(ctx, line, fields, &report); err != nil {
			return report, fail(op, err)
		}
		if progress != nil && lines%importBatch == 0 {
			progress(lines)
		}
	}
	return report, im.flush(ctx, &report)
}

var importNames = []string{"title", "login", "password", "url", "notes", "resource", "scope", "kind", "key_id"}

func importColumns(header []string) (map[string]int, error) {
	columns := map[string]int{}
	if len(header) > importFields {
		return nil, invalid("", "the header has more than %d columns", importFields)
	}
	for i, name := range header {
		name = strings.ToLower(strings.TrimSpace(strings.TrimPrefix(name, "\ufeff")))
		if !slices.Contains(importNames, name) {
			// A file without a header begins with somebody's secrets: its text is not told.
			return nil, invalid("", "field %d of the first line is no column's name: the first line is a header of %s", i+1, strings.Join(importNames, ", "))
		}
		if _, twice := columns[name]; twice {
			return nil, invalid("", "the header names the column %q twice", name)
		}
		columns[name] = i
	}
	if _, ok := columns["title"]; !ok {
		return nil, invalid("", "the header names no column %q", "title")
	}
	return columns, nil
}

type importer struct {
	c         *Client
	folder    seal.ID
	key       seal.Key
	version   uint32
	columns   map[string]int
	width     int // columns of the header
	resources map[string]Ref
	taken     *taken // by the vault's records and the lines before

	ops   []*clientv1.WriteOp
	lines []int // whose ops these are
}

func (im *importer) add(ctx context.Context, line int, fields []string, report *ImportReport) error {
	data, account, err := im.record(ctx, fields)
	if ClassOf(err) == Unreachable {
		return err
	}
	if err == nil {
		err = im.taken.title(im.folder, data.Title())
	}
	if err == nil && account != nil {
		err = im.taken.login(account, publicKeyOf(data))
	}
	var subject any
	if account != nil {
		subject = account
	}
	var ops []*clientv1.WriteOp
	if err == nil {
		_, ops, err = im.c.newRecord(im.c.log, im.folder, im.key, im.version, data, subject, subject != nil)
	}
	if err != nil {
		report.Failed = append(report.Failed, ImportFailure{line, fail("", err)})
		return nil
	}
	im.taken.add(im.folder, data, account, fmt.Sprintf("line %d of the file", line))
	im.ops, im.lines = append(im.ops, ops...), append(im.lines, line)
	if len(im.lines) < importBatch {
		return nil
	}
	return im.flush(ctx, report)
}

// record is what a line says: a login's data, or an account's with its statement.
func (im *importer) record(ctx context.Context, fields []string) (*record.Record, *trustv1.Account, error) {
	if len(fields) > im.width {
		return nil, nil, invalid("", "the line has %d fields, and the header %d", len(fields), im.width)
	}
	get := func(name string) string {
		if i, ok := im.columns[name]; ok && i < len(fields) {
			return fields[i]
		}
		return ""
	}
	secret := sdk.NewSecret([]byte(get("password")))
	name := get("resource")
	if name == "" {
		if get("scope") != "" || get("kind") != "" || get("key_id") != "" {
			return nil, nil, invalid("", "scope, kind and key_id belong to accounts: the line names no resource")
		}
		data, err := loginData(LoginSpec{Title: get("title"), Login: get("login"), URL: get("url"), Notes: get("notes"), Secret: secret})
		return data, nil, err
	}
	resource, err := im.resource(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	return accountData(AccountSpec{
		Title: get("title"), Resource: resource, Login: get("login"), Scope: get("scope"), URL: get("url"),
		SecretKind: get("kind"), Secret: secret, KeyID: get("key_id"), Notes: get("notes"),
	})
}

func (im *importer) resource(ctx context.Context, name string) (Ref, error) {
	if r, ok := im.resources[name]; ok {
		return r, nil
	}
	r, err := im.c.FindRecord(ctx, name, TypeMachine, TypeDatabase, TypeDirectory)
	if err != nil {
		return Ref{}, err
	}
	im.resources[name] = r.Ref
	return r.Ref, nil
}

// flush writes the batch, all or none of it.
func (im *importer) flush(ctx context.Context, report *ImportReport) error {
	if len(im.ops) == 0 {
		return nil
	}
	if err := im.c.fresh(ctx); err != nil {
		return err
	}
	_, err := call(ctx, im.c, "import", im.c.conn.Write, &clientv1.WriteRequest{Ops: im.ops})
	if err == nil {
		report.Added += len(im.lines)
	} else {
		for _, line := range im.lines {
			report.Failed = append(report.Failed, ImportFailure{line, err})
		}
	}
	im.ops, im.lines = nil, nil
	if ClassOf(err) == Unreachable {
		return err
	}
	return nil
}
