package run

import (
	"strconv"
	"strings"
	"sync"

	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/record"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
)

// maxTold bounds what is remembered to tell of an edit once; beyond it is forgotten.
const maxTold = 10_000

// told is what was told already: ciphertexts, by record.
type told struct {
	mu   sync.Mutex
	seen map[trust.Ref]seal.Digest
}

func (t *told) first(r trust.Ref, data seal.Digest) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.seen[r] == data {
		return false
	}
	if t.seen == nil || len(t.seen) >= maxTold {
		t.seen = map[trust.Ref]seal.Digest{}
	}
	t.seen[r] = data
	return true
}

// tellEdited tells, once for each content, of records whose JSON names another host,
// port or login than their statement. The statement is what is used: somebody edited
// the record with a client that signs nothing, and should know that it had no effect.
func (e *Engine) tellEdited(records ...*servedRecord) {
	for _, r := range records {
		what := edited(r.Record)
		if len(what) == 0 || !e.told.first(r.Ref, r.DataDigest) {
			continue
		}
		e.Log.Warn("a record's own fields differ from its signed statement; the statement is used", "reason", trust.RecordEdited, "record", r.Ref, "what", what)
		e.Tell(ksm.Refusal{
			Name: "record_edited", Reason: string(trust.RecordEdited), Record: wireRef(r.Ref), Time: e.Now().UnixMilli(),
			Fields: map[string]string{"what": strings.Join(what, ",")},
		})
	}
}

// edited names the copies in a record's JSON that differ from its statement. A copy
// that is not there says nothing.
func edited(r *trust.Record) (what []string) {
	rec, err := record.Parse(r.Data)
	if err != nil {
		return nil // whoever needs its secret will say so
	}
	if s := r.Statement.GetResource(); s != nil {
		h, _ := rec.Host()
		if h.HostName != "" && h.HostName != s.Host {
			what = append(what, "host")
		}
		if h.Port != "" && h.Port != strconv.Itoa(int(s.Port)) {
			what = append(what, "port")
		}
	}
	if s := r.Statement.GetAccount(); s != nil {
		if login, ok := rec.Text("login"); ok && string(login) != s.Login {
			what = append(what, "login")
		}
	}
	return what
}
