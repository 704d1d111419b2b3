package main

import (
	"strings"
	"testing"

	"github.com/rotunda-pam/rotunda/client"
	"github.com/rotunda-pam/rotunda/internal/trust"
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

// Who asks for a secret alone sees no state beside it: what is not to be used is not printed,
// unless that very state was named, and what nobody has signed for comes with a warning.
func TestSecretAlone(t *testing.T) {
	for state, row := range map[client.ValueState]struct {
		reason          trust.Reason
		refused, warned bool
	}{
		client.InUse:         {"", false, false},
		client.Kept:          {"", false, false},
		client.Unconfirmed:   {trust.ValueUnattested, false, true},
		client.Unattested:    {trust.ValueUnattested, false, true},
		client.NotLinked:     {trust.NotLinked, false, true},
		client.Unsigned:      {trust.RecordUnsigned, true, false},
		client.EditedOutside: {trust.ValueUnattested, true, false},
		client.RolledBack:    {trust.ValueRollback, true, false},
		client.Broken:        {trust.RecordSwapped, true, false},
	} {
		word := stateWord(string(state))
		for _, evenIf := range append([]string{""}, refusedStates...) {
			p, stdout, stderr := fakeProcess(t)
			err := (&cli{p: p}).mayPrint(&client.Record{Title: "app", State: state, Reason: string(row.reason)}, evenIf)
			warned := strings.Contains(stderr.String(), "warning: app is "+string(state))
			if stdout.Len() > 0 || warned != (row.warned || row.refused && evenIf == word) {
				t.Errorf("%s, --even-if %q: %q, %q", state, evenIf, stdout, stderr)
			}
			if refused := row.refused && evenIf != word; !refused {
				if err != nil {
					t.Errorf("%s, --even-if %q: %v", state, evenIf, err)
				}
				continue
			}
			if err == nil {
				t.Errorf("%s, --even-if %q: it is printed", state, evenIf)
				continue
			}
			if f := classify(err); f.exit != exitDenied || f.reason != string(row.reason) || !strings.Contains(f.hint, row.reason.Hint()+"\n`--even-if "+word+"`") {
				t.Errorf("%s, --even-if %q: exit %d, %s: %s; %s", state, evenIf, f.exit, f.reason, f, f.hint)
			}
		}
	}
}

// That an agent attests a value, and its pool is not known here, is shown with the state.
func TestUnknownPool(t *testing.T) {
	for state, c := range map[client.ValueState]struct {
		reason string
		text   string
		hinted bool
	}{
		client.InUse:      {"", "in use; by an agent whose pool is not known here (pool_unknown)", false},
		client.Unattested: {client.PoolUnknown, "unattested (pool_unknown)", true},
	} {
		v := viewRecord(&client.Record{State: state, Reason: c.reason, PoolUnknown: true})
		var out strings.Builder
		showRecord(&out, v)
		if !v.PoolUnknown || v.stateText() != c.text || !strings.Contains(out.String(), c.text) || (v.Hint == client.PoolUnknownMeans) != c.hinted {
			t.Errorf("%s: %q, hint %q:\n%s", state, v.stateText(), v.Hint, out.String())
		}
	}
	if v := viewRecord(&client.Record{State: client.InUse}); v.PoolUnknown || v.stateText() != "in use" {
		t.Errorf("known: %q", v.stateText())
	}
}
