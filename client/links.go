package client

import (
	"errors"
	"fmt"
	"slices"

	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// PoolUnknown is the reason why an agent's word on a value is not signed on, and where the
// caller may read the resource, does not count.
const PoolUnknown = "pool_unknown"

// PoolUnknownMeans says what to do about it.
const PoolUnknownMeans = "only the word of an agent of the resource's pool counts, and this device does not see the resource: whoever may read it does this, or `rotunda doctor` says why it is not shown. A value that you have tried yourself counts by `rotunda record adopt`"

// judgeLinks is step 9 of 4.2 for a record whose statement holds.
func (c *Client) judgeLinks(o *opened) {
	if o.checked == nil {
		return
	}
	pool := o.checked.Pool()
	if o.pool != nil {
		pool = *o.pool
	}
	o.Unlinked = trust.Unlinked(c.log, o.checked)
	if trust.CheckLinks(c.log, o.checked, pool) == nil || o.State == Broken || o.State == RolledBack {
		return
	}
	o.word, o.wordReason = o.State, o.Reason
	o.State, o.Reason = NotLinked, string(trust.NotLinked)
}

// inUse says whether the value is attested, whatever the record names.
func (o *opened) inUse() bool {
	state, _ := o.ValueState()
	return state == InUse
}

// linked refuses to sign for somebody else what he had no right to sign: his statement
// would have the caller's rights.
func (o *opened) linked(op string) error {
	if len(o.Unlinked) == 0 {
		return nil
	}
	r := o.Unlinked[0]
	return &Error{
		Class: Refused, Reason: string(trust.NotLinked), Op: op,
		Err:  fmt.Errorf("%s names %s as %s, on which %s, who signed that, has not the rights (%s)", o.Title, r.Ref, r.As, orElse(o.SignedByName, "its signer"), r.Needs),
		Hint: "look at the record; " + nameItYourself(o),
	}
}

// nameItYourself says how a reference becomes the caller's own word.
func nameItYourself(o *opened) string {
	if isResource(o.Type) {
		return "what is meant you name yourself: `rotunda resource edit RESOURCE --admin ACCOUNT`, which leaves out what else it names without right"
	}
	return "what is meant you name yourself: `rotunda record edit RECORD --resource RESOURCE`, which leaves out what else it names without right"
}

// lacks says whether the statement names a record so without right.
func (o *opened) lacks(as string, r *trustv1.Ref) bool {
	ref, err := refFrom(r)
	return err == nil && slices.ContainsFunc(o.Unlinked, func(u trust.Reference) bool { return u.As == as && u.Ref == ref })
}

func (o *opened) lacksScript(u *trustv1.ScriptUse) bool {
	return o.lacks("script", u.Script) || slices.ContainsFunc(u.Records, func(r *trustv1.Ref) bool { return o.lacks("record", r) })
}

// dropUnlinked takes out of an account what its signer had no right to name: whoever
// changes it names that himself, or it is gone.
func (o *opened) dropUnlinked(a *trustv1.Account) {
	if o.lacks("resource", a.Resource) {
		a.Resource = nil
	}
	if o.lacks("pair", a.PairAccount) {
		a.PairAccount = nil
	}
	a.Dependents = slices.DeleteFunc(a.Dependents, func(d *trustv1.Dependent) bool {
		return o.lacks("dependent", d.Resource) || d.Script != nil && o.lacksScript(d.Script)
	})
	if a.Generator != nil && o.lacksScript(a.Generator) {
		a.Generator = nil
	}
	a.Scripts = slices.DeleteFunc(a.Scripts, o.lacksScript)
}

// dropUnlinkedOf is dropUnlinked of a resource.
func (o *opened) dropUnlinkedOf(r *trustv1.Resource) {
	if o.lacks("via", r.Via) {
		r.Via = nil
	}
	if o.lacks("administrator", r.AdminAccount) {
		r.AdminAccount = nil
	}
	if r.Rotator != nil && o.lacksScript(r.Rotator) {
		r.Rotator = nil
	}
	if r.Discoverer != nil && o.lacksScript(r.Discoverer) {
		r.Discoverer = nil
	}
	r.Extras = slices.DeleteFunc(r.Extras, func(x *trustv1.Extra) bool { return o.lacks("extra", x.Account) })
	r.Scripts = slices.DeleteFunc(r.Scripts, o.lacksScript)
}

// hidden says whether an agent attests the value, and the resource that tells of his pool
// is withheld: the value may be in use, and does not count here.
func (o *opened) hidden() bool {
	state, _ := o.ValueState()
	return o.withheld && o.PoolUnknown && state == Unattested
}

// mayAttest refuses to sign on an agent's value where the pool is not known: a stolen
// agent of another one may have made it.
func (o *opened) mayAttest() error {
	if !o.PoolUnknown {
		return nil
	}
	return &Error{
		Class: Refused, Reason: PoolUnknown,
		Err:  fmt.Errorf("the value of %s is an agent's word, and the pool of its resource is not known here", o.Title),
		Hint: PoolUnknownMeans,
	}
}

// attestedByGone says whether the record's data is what its newest attestation names, by
// somebody whose word counted when he signed it, and no longer does.
func (c *Client) attestedByGone(o *opened) (bool, error) {
	claimed := claimedValue(o)
	if o.State != Unattested || o.content == nil || seal.Digest(claimed.DataDigest) != o.content.DataDigest {
		return false, nil
	}
	past, err := c.logAt(claimed.LogEpoch)
	if err != nil {
		return false, err
	}
	r, err := trust.OpenResult(past, o.view.Attestation.GetSigned())
	switch {
	case trust.ReasonOf(err) != "":
		return false, nil
	case err != nil:
		return false, err
	case r.Phase != trustv1.Phase_PHASE_COMMITTED && r.Phase != trustv1.Phase_PHASE_EDITED:
		return false, nil
	}
	var pool seal.ID
	if o.pool != nil {
		pool = *o.pool
	} else if r.Signer.Kind == KindAgent {
		return false, nil
	}
	return trust.CheckWord(past, r, o.Ref, pool) == nil, nil
}

var errPast = errors.New("that far is enough")

// logAt is the log as it was at an epoch, or as it is where that is none of its.
func (c *Client) logAt(epoch uint64) (*trust.Log, error) {
	past := trust.NewLog(c.facts.OrgID)
	err := c.memory.work(func(t *memoryTx) error {
		return t.changes(0, func(n uint64, signed []byte) error {
			if n > epoch {
				return errPast
			}
			_, err := past.Append(signed, c.now())
			return err
		})
	})
	if errors.Is(err, errPast) {
		err = nil
	}
	return past, err
}
