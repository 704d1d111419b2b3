package run

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

// pair is the other account of an A/B pair.
type pair struct {
	login  sdk.Account
	secret sdk.Credential
	// used is since when whoever uses the pair does so as the other account, by the words that
	// set the secrets and ended the runs; zero: they use this one.
	used time.Time
	// unsure is that of the words on this one some are missing: it may be the one in use.
	unsure bool
}

// openPair opens the record of the pair's other account, and finds out which of the two is
// in use: that whose secret was set last, once everybody who uses it has heard of it. Both
// must name each other, on one resource.
func (r *Run) openPair(ctx context.Context, served *servedRecords) error {
	ref := mustRef(r.account.Statement.GetAccount().GetPairAccount())
	if ref.IsZero() {
		return nil
	}
	if err := served.need(ctx, ref); err != nil {
		return fmt.Errorf("pair: %w", err)
	}
	other, err := served.record(ref, trustv1.RecordKind_RECORD_KIND_ACCOUNT)
	if err != nil {
		return fmt.Errorf("pair: %w", err)
	}
	defer clear(other.Data)
	a := other.Statement.GetAccount()
	if mustRef(a.PairAccount) != r.job.Account || mustRef(a.Resource) != r.resource.Ref || ref == r.job.Account {
		return &sdk.Error{Class: sdk.ClassInvalid, Reason: "pair.one_sided", NotSent: true, Err: errors.New("the two accounts of a pair must name each other, and be on one resource")}
	}
	if err := trust.CheckLinks(r.log, other.Statement, r.pool()); err != nil {
		return fmt.Errorf("pair: %w", err)
	}
	value, err := r.e.checkValue(r.log, other, r.pool())
	if err != nil {
		return fmt.Errorf("pair: %w", err)
	}
	p := &pair{login: sdk.Account{Name: a.Login, Scope: a.Scope}}
	if p.secret, err = credential(other.Data, sdk.Kind(a.SecretKind)); err != nil {
		return fmt.Errorf("pair: %w", err)
	}
	var set *trustv1.Result
	if value != nil {
		set, _ = trust.Setter(r.log, value.Result, other.wire.Recent, r.pool())
	}
	p.used, _ = r.usedSince(set, other.wire.Recent)
	mine, known := r.usedSince(r.set, r.recent)
	p.unsure = r.value != nil && !known
	if mine.After(p.used) || mine.Equal(p.used) && bytes.Compare(r.job.Account.Record[:], ref.Record[:]) < 0 {
		p.used = time.Time{}
	}
	r.pair = p
	return nil
}

// usedSince is when an account of a pair came into use: where it has dependents, when all
// of them had its secret; never, where one refused it. A person who sets a secret knows
// what he does. Not known is it where nobody's word is there that says so, or where it was
// not shown.
func (r *Run) usedSince(set *trustv1.Result, recent [][]byte) (since time.Time, known bool) {
	if set == nil {
		return time.Time{}, false
	}
	if set.Dependents == trustv1.Outcome_OUTCOME_PENDING { // at the commit: there were some
		words := trust.Words(r.log, recent, set.RunId, r.pool())
		since, _ = trust.Followed(words)
		return since, len(words) > 0
	}
	return time.UnixMilli(set.Time), true
}

// checkPair keeps a rotation from the account of the pair that is in use, and from the
// other one for as long as who used that before may go on.
func (r *Run) checkPair() error {
	if r.pair == nil {
		return nil
	}
	reason, err := "", error(nil)
	over := r.pair.used.Add(time.Duration(r.account.Statement.GetAccount().DrainS) * time.Second)
	switch {
	case r.pair.used.IsZero():
		reason, err = "pair.in_use", fmt.Errorf("it is the one of its pair that is in use: rotate the other, %s, which takes over", r.pair.login.Name)
	case r.pair.unsure && r.job.Command == nil:
		return &Stop{
			Outcome: trustv1.Outcome_OUTCOME_FAILED, Class: sdk.ClassConflict, Reason: "pair.unknown",
			Err: errors.New("it may be the one of its pair that is in use: the words of the run that set its secret, on whether its dependents have it, are missing. Find out, and rotate by hand the one that nobody uses"),
		}
	case r.e.Now().Before(over):
		reason, err = "pair.draining", fmt.Errorf("the other one of its pair, %s, took over at %s, and who used this one may go on until %s", r.pair.login.Name, r.pair.used.UTC().Format(time.RFC3339), over.UTC().Format(time.RFC3339))
	default:
		return nil
	}
	stop := &Stop{Outcome: trustv1.Outcome_OUTCOME_FAILED, Class: sdk.ClassConflict, Reason: reason, Err: err}
	if r.job.Command == nil {
		stop.Outcome = trustv1.Outcome_OUTCOME_NONE // both have a schedule, and it is the other's turn
	}
	return stop
}
