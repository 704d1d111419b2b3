package main

import (
	"strings"
	"testing"

	"github.com/rotunda-pam/rotunda/client"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// A secret that a run changed and no login has proven is not shown as one that was.
func TestUnprovenValue(t *testing.T) {
	for name, c := range map[string]struct {
		phase      trustv1.Phase
		credential trustv1.Outcome
		word       string
		unproven   bool
	}{
		"proven by a login":     {trustv1.Phase_PHASE_COMMITTED, trustv1.Outcome_OUTCOME_DONE, "done", false},
		"of who may not log in": {trustv1.Phase_PHASE_COMMITTED, trustv1.Outcome_OUTCOME_UNVERIFIABLE, "unverifiable", true},
		"set by a person":       {trustv1.Phase_PHASE_EDITED, trustv1.Outcome_OUTCOME_UNSPECIFIED, "", false},
	} {
		v := viewRecord(&client.Record{
			State:     client.InUse,
			Statement: &trustv1.Statement{Subject: &trustv1.Statement_Account{Account: &trustv1.Account{VerifyMode: "login"}}},
			Attested:  &trustv1.Result{Phase: c.phase, Credential: c.credential, ValueSeq: 2},
		})
		var out strings.Builder
		showRecord(&out, v)
		says := strings.Contains(out.String(), "in use; changed, not verifiable") && strings.Contains(out.String(), "login, which was not possible") &&
			strings.HasSuffix(v.stateText(), notVerifiable)
		if v.Attested.Credential != c.word || says != c.unproven || strings.Contains(out.String(), "verifiable") != c.unproven {
			t.Errorf("%s: credential %q:\n%s", name, v.Attested.Credential, out.String())
		}
	}
}
