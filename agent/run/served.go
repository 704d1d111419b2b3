package run

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"golang.org/x/crypto/ssh"

	"github.com/rotunda-pam/rotunda/agent/journal"
	"github.com/rotunda-pam/rotunda/agent/pluginhost"
	"github.com/rotunda-pam/rotunda/agent/probe"
	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/record"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

// servedRecords is one answer of the vault, with the folder keys opened.
type servedRecords struct {
	e    *Engine
	log  *trust.Log
	keys map[seal.ID]seal.Key
	list []ksm.ExtRecord

	sealed map[seal.ID][]byte // the folder keys as they were served
}

// servedRecord is a record whose statement holds.
type servedRecord struct {
	*trust.Record
	served trust.Served
	wire   ksm.ExtRecord
}

// open opens the folder keys of an answer and holds them against the log.
func (e *Engine) open(log *trust.Log, got ksm.FetchAnswer) (*servedRecords, error) {
	s := &servedRecords{e: e, log: log, keys: map[seal.ID]seal.Key{}, sealed: map[seal.ID][]byte{}, list: got.Records}
	for _, f := range got.Folders {
		if err := s.folder(f); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// folder opens one folder key.
func (s *servedRecords) folder(f ksm.ExtFolder) error {
	uid, err := seal.IDFrom(f.FolderUID)
	if err != nil {
		return &trust.Error{Reason: trust.Malformed, What: "folder uid", Err: err}
	}
	key, err := s.e.folderKeys.open(s.log, s.e.Me, uid, f.KeyVersion, f.Sealed)
	if err != nil {
		return err
	}
	s.keys[uid], s.sealed[uid] = key, f.Sealed
	return nil
}

// need makes sure that records are in the answer: the server's links, by which it
// chose what to bring along, are nobody's word.
func (s *servedRecords) need(ctx context.Context, refs ...trust.Ref) error {
	var missing []seal.ID
	for _, ref := range refs {
		if !ref.IsZero() && !slices.ContainsFunc(s.list, isRecord(ref)) && !slices.Contains(missing, ref.Record) {
			missing = append(missing, ref.Record)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	got, err := s.e.Vault.Fetch(ctx, missing...)
	if err != nil {
		return vaultError("fetch", err)
	}
	more, err := s.e.open(s.log, got)
	if err != nil {
		return err
	}
	maps.Copy(s.keys, more.keys)
	maps.Copy(s.sealed, more.sealed)
	s.list = append(s.list, more.list...)
	return nil
}

// isRecord compares bytes: what was served as a uid may be of any length.
func isRecord(ref trust.Ref) func(ksm.ExtRecord) bool {
	return func(w ksm.ExtRecord) bool { return bytes.Equal(w.Ref.Record, ref.Record[:]) }
}

// record opens and checks one record of the answer.
func (s *servedRecords) record(ref trust.Ref, kind trustv1.RecordKind) (*servedRecord, error) {
	if i := slices.IndexFunc(s.list, isRecord(ref)); i >= 0 {
		w := s.list[i]
		served := Served(ref, kind, w)
		key, ok := s.keys[ref.Folder]
		if !ok {
			return nil, &trust.Error{Reason: trust.FolderUnknown, What: fmt.Sprintf("no key of folder %s was served", ref.Folder)}
		}
		rec, err := trust.OpenRecord(s.log, s.e.Journal, key, served)
		if err != nil {
			return nil, err
		}
		return &servedRecord{rec, served, w}, nil
	}
	if s.log.Roles(s.e.Me.ID, ref.Folder).Has(trust.Read) {
		return nil, &trust.Error{Reason: trust.RecordMissing, What: fmt.Sprintf("record %s was not served, though this agent may read its folder", ref)}
	}
	return nil, &trust.Error{Reason: trust.NotLinked, What: fmt.Sprintf("record %s is in a folder that this agent may not read", ref)}
}

// Served is a record of the wire as the checks take it.
func Served(ref trust.Ref, kind trustv1.RecordKind, w ksm.ExtRecord) trust.Served {
	served := trust.Served{
		Ref: ref, Kind: kind,
		RecordKey: w.RecordKey, Data: w.Data, Statement: w.Statement, Attestation: w.Attestation, Recent: w.Recent,
	}
	if w.Staged != nil {
		served.Staged = &trust.ServedCandidate{Data: w.Staged.Data, Result: w.Staged.Result, Authority: w.Staged.Authority}
	}
	return served
}

// login opens an account that a resource names: its administrator, or an extra.
func (s *servedRecords) login(ctx context.Context, as string, ref trust.Ref, pool seal.ID) (sdk.Credential, sdk.Account, error) {
	if err := s.need(ctx, ref); err != nil {
		return sdk.Credential{}, sdk.Account{}, fmt.Errorf("%s: %w", as, err)
	}
	rec, err := s.record(ref, trustv1.RecordKind_RECORD_KIND_ACCOUNT)
	if err != nil {
		return sdk.Credential{}, sdk.Account{}, fmt.Errorf("%s: %w", as, err)
	}
	defer clear(rec.Data)
	if _, err := s.e.checkValue(s.log, rec, pool); err != nil {
		return sdk.Credential{}, sdk.Account{}, fmt.Errorf("%s: %w", as, err)
	}
	s.e.tellEdited(rec)
	a := rec.Statement.GetAccount()
	c, err := credential(rec.Data, sdk.Kind(a.SecretKind))
	return c, sdk.Account{Name: a.Login, Scope: a.Scope}, err
}

// outstanding says whether an agent has staged a candidate of an account.
func (s *servedRecords) outstanding(ref trust.Ref) bool {
	i := slices.IndexFunc(s.list, isRecord(ref))
	return i >= 0 && s.list[i].Staged != nil && s.list[i].Staged.Owner == "agent"
}

// extras fetches the further secrets that a resource names. The vault does not know
// them, so they are asked for by name.
func (e *Engine) extras(ctx context.Context, log *trust.Log, resource *trustv1.Resource, pool seal.ID) (map[string]sdk.Credential, error) {
	var uids []seal.ID
	for _, x := range resource.Extras {
		if x.Name != trust.JumpExtra {
			uids = append(uids, mustRef(x.Account).Record)
		}
	}
	if len(uids) == 0 {
		return nil, nil
	}
	got, err := e.Vault.Fetch(ctx, uids...)
	if err != nil {
		return nil, vaultError("fetch", err)
	}
	served, err := e.open(log, got)
	if err != nil {
		return nil, err
	}
	extras := map[string]sdk.Credential{}
	for _, x := range resource.Extras {
		if x.Name == trust.JumpExtra { // this agent's, and no plugin's
			continue
		}
		c, _, err := served.login(ctx, "extra "+x.Name, mustRef(x.Account), pool)
		if err != nil {
			wipeAll(extras)
			return nil, err
		}
		extras[x.Name] = c
	}
	return extras, nil
}

func wipeAll(secrets map[string]sdk.Credential) {
	for _, c := range secrets {
		c.Secret.Wipe()
	}
}

// former opens the value before the one that an agent's commit set, which that commit
// names by its attestation: a former secret that is ended must be the account's.
func (s *servedRecords) former(account *servedRecord, kind sdk.Kind, set *trustv1.Result) (sdk.Credential, error) {
	if set == nil {
		return sdk.Credential{}, &trust.Error{Reason: trust.ValueUnattested, What: "which value set the present secret is not known"}
	}
	if set.Phase != trustv1.Phase_PHASE_COMMITTED || len(set.Prev) == 0 {
		return sdk.Credential{}, nil // set by hand, or the first value that anybody attested
	}
	digest, ok := trust.Attests(s.log, account.wire.Recent, seal.Digest(set.Prev))
	if !ok || len(account.wire.HistoryData) == 0 || digest != seal.Hash(account.wire.HistoryData) {
		return sdk.Credential{}, &trust.Error{Reason: trust.ValueUnattested, What: fmt.Sprintf("the value before value %d was not served, or nobody attests it", set.ValueSeq)}
	}
	// Under the folder's key or, once the record was given a key of its own since, under that.
	key, err := seal.UnwrapKey(s.keys[account.Ref.Folder], account.wire.HistoryKey)
	if err != nil {
		key, err = seal.UnwrapKey(account.Key, account.wire.HistoryKey)
	}
	if err != nil {
		return sdk.Credential{}, &trust.Error{Reason: trust.RecordCorrupt, What: "former value's key", Err: err}
	}
	defer key.Wipe()
	data, err := seal.OpenGCM(key, account.wire.HistoryData, nil)
	if err != nil {
		return sdk.Credential{}, &trust.Error{Reason: trust.RecordCorrupt, What: "former value", Err: err}
	}
	defer clear(data)
	return credential(data, kind)
}

func sshCredential(pair record.KeyPair) sdk.Credential {
	c := sdk.Credential{Kind: sdk.SSHKey, Public: []byte(pair.PublicKey), Secret: sdk.NewSecret([]byte(pair.PrivateKey))}
	if key, _, _, _, err := ssh.ParseAuthorizedKey(c.Public); err == nil {
		c.ID = ssh.FingerprintSHA256(key)
	}
	return c
}

// firstHostKey is the host key that this agent saw first, for a resource whose
// statement says so; it is probed when none was seen yet.
func firstHostKey(ctx context.Context, resource trust.Ref, address string, j *journal.Journal, dial pluginhost.DialFunc) (seal.Digest, error) {
	known, err := j.HostKey(resource)
	if err != nil || !known.IsZero() {
		return known, err
	}
	seen, err := probe.Target(ctx, probe.Dial(dial), probe.SSH, address, "")
	if own := (*sdk.Error)(nil); errors.As(err, &own) { // of a jump host
		return seal.Digest{}, own
	}
	if err != nil {
		return seal.Digest{}, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "probe", NotSent: true, Err: err}
	}
	first := seal.Digest(seen.SshHostKeySha256[0])
	return first, j.KeepHostKey(resource, first)
}

// mustRef reads a reference of a statement that was checked; nil is the zero Ref.
func mustRef(r *trustv1.Ref) trust.Ref {
	if r == nil {
		return trust.Ref{}
	}
	ref, _ := trust.RefFrom(r)
	return ref
}

func wireRef(r trust.Ref) ksm.Ref { return ksm.Ref{Folder: r.Folder.Bytes(), Record: r.Record.Bytes()} }

// refusal makes the end of a run out of a failed check, or of a plugin's word
// before anything was changed.
func refusal(err error) error {
	var stop *Stop
	var check *trust.Error
	var plug *pluginhost.Error
	var own *sdk.Error
	switch {
	case errors.As(err, &stop):
		return stop
	case errors.As(err, &check):
		return &Stop{Outcome: trustv1.Outcome_OUTCOME_FAILED, Class: sdk.ClassInvalid, Reason: string(check.Reason), Err: err}
	case errors.As(err, &own):
		return &Stop{Outcome: trustv1.Outcome_OUTCOME_FAILED, Class: own.Class, Reason: own.Reason, Err: err}
	case errors.As(err, &plug):
		return &Stop{Outcome: trustv1.Outcome_OUTCOME_FAILED, Class: sdk.ClassInternal, Reason: string(plug.Reason), Err: err}
	}
	return err
}

// vaultError tells the lease that has moved on from everything else.
func vaultError(what string, err error) error {
	if errors.Is(err, &ksm.Error{Code: ksm.CodeEpochOld}) {
		return fmt.Errorf("%s: %w: %w", what, ErrLeaseLost, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}
