package client

import (
	"errors"
	"strings"
	"testing"

	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// A password policy that no agent could serve is refused where it is set, up to one of a
// mebibyte; one that stands already keeps nobody from signing something else.
func TestPoliciesThatNobodyCanServe(t *testing.T) {
	account := func(p *trustv1.PasswordPolicy) *trustv1.Account { return &trustv1.Account{Policy: p} }
	for name, p := range map[string]*trustv1.PasswordPolicy{
		"a mebibyte long":       {Length: 1 << 20},
		"as long as can be":     {Length: 1<<32 - 1},
		"a mebibyte of symbols": {Length: 20, Symbols: strings.Repeat("#", 1<<20), MinSymbol: 1},
		"a mebibyte left out":   {Length: 20, Exclude: strings.Repeat("a", 1<<20)},
		"too short":             {Length: 7},
		"more than it holds":    {Length: 8, MinLower: 1<<32 - 1, MinDigit: 9},
		"no text":               {Length: 20, Symbols: "\xff"},
	} {
		d := draft{subject: &trustv1.Statement{}}
		d.setSubject(account(p))
		err, _ := errors.AsType[*Error](d.checkPolicy())
		if err == nil || err.Class != Invalid || err.Reason != "policy.impossible" || err.Hint == "" || len(err.Error()) > 500 {
			t.Errorf("%s: %.500v", name, err)
		}
		former := &trustv1.Statement{Subject: &trustv1.Statement_Account{Account: account(p)}}
		d.former = &opened{Record: &Record{Statement: former}}
		if err := d.checkPolicy(); err != nil {
			t.Errorf("%s, as it was: %.500v", name, err)
		}
	}
	for name, p := range map[string]*trustv1.PasswordPolicy{"none": nil, "usual": {Length: 20, MinDigit: 2, MinSymbol: 2}, "the plugin's length": {MinLower: 3}} {
		d := draft{subject: &trustv1.Statement{}}
		d.setSubject(account(p))
		if err := d.checkPolicy(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
