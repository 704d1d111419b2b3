package client

import (
	"context"
	"slices"

	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// formerStands says whether the key before an account's present one may still open the
// target: it does until the run that set the present one has ended it, and says so. A new
// password takes the former's place; a plugin that leaves both valid tells its agents alone.
func (c *Client) formerStands(ctx context.Context, o *opened) (bool, error) {
	if !o.inUse() || o.value == nil || !slices.Contains([]string{SecretSSHKey, SecretAPIKey, SecretToken}, o.Statement.GetAccount().GetSecretKind()) {
		return false, nil
	}
	value := o.value.Result
	switch {
	case value.Phase == trustv1.Phase_PHASE_COMMITTED && trust.Finished(c.log, servedOf(o).Recent, value.RunId, value.Signer.Owner):
		return false, nil // it is the newest word
	case value.Phase == trustv1.Phase_PHASE_COMMITTED:
		results, err := c.resultsOf(ctx, value.RunId)
		return !trust.Finished(c.log, results, value.RunId, value.Signer.Owner), err
	case value.Same == nil:
		return false, nil // set by hand
	}
	// An edit has left the secret as a run set it: which one, the runs' results say.
	page, err := call(ctx, c, "list runs", c.conn.ListRuns, &clientv1.ListRunsRequest{AccountUid: o.Ref.Record.Bytes(), Page: &clientv1.Page{Size: runsOfAccount}})
	if err != nil {
		return false, err
	}
	for _, run := range page.Runs {
		results, err := c.resultsOf(ctx, run.RunId)
		if err != nil {
			return false, err
		}
		if by, ok := committedIn(c.log, results, o.Ref, value.Same.ValueSeq); ok {
			return !trust.Finished(c.log, results, run.RunId, by), nil
		}
	}
	return page.Next != "", nil // all were seen: none set it
}

// runsOfAccount bounds how far back the run is looked for that set a secret.
const runsOfAccount = 50

func (c *Client) resultsOf(ctx context.Context, run []byte) (signed [][]byte, err error) {
	view, err := call(ctx, c, "show a run", c.conn.GetRun, &clientv1.GetRunRequest{RunId: run})
	if ClassOf(err) == NotFound {
		return nil, nil // then nobody says that it has ended
	}
	if err != nil {
		return nil, err
	}
	for _, r := range view.Results {
		signed = append(signed, r.Signed)
	}
	return signed, nil
}

// committedIn finds the pool whose agent committed a value, among a run's results. An
// agent that was removed since may have: it is no pool's.
func committedIn(l *trust.Log, results [][]byte, account Ref, seq uint64) (pool seal.ID, ok bool) {
	for _, signed := range results {
		r, err := trust.OpenResult(l, signed)
		if trust.ReasonOf(err) == trust.SignerUnknown {
			return seal.ID{}, true
		}
		if err == nil && r.Phase == trustv1.Phase_PHASE_COMMITTED && r.ValueSeq == seq && trust.CheckWord(l, r, account, seal.ID{}) == nil {
			return r.Signer.Owner, true
		}
	}
	return seal.ID{}, false
}
