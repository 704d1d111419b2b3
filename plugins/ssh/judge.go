package main

import (
	"bytes"
	"context"
	"slices"

	"github.com/rotunda-pam/rotunda/sdk"
)

// remember keeps a session to be asked, by Verify, why a login was refused; a login
// itself never goes through one.
func (p *rotator) remember(s *session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open == nil {
		p.open = map[string][]*session{}
	}
	a := s.admin.Resource.Address
	p.open[a] = append(p.open[a], s)
}

func (p *rotator) forget(s *session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := s.admin.Resource.Address
	p.open[a] = slices.DeleteFunc(p.open[a], func(o *session) bool { return o == s })
	if len(p.open[a]) == 0 {
		delete(p.open, a)
	}
}

// witness is the newest session that may look into the account. One of an account that
// rotates itself does not try its password on sudo, which reports whoever may not use it.
func (p *rotator) witness(v sdk.VerifyRequest) *session {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range slices.Backward(p.open[v.Resource.Address]) {
		if s.root || s.sudo == freeSudo || s.sudo == paidSudo && !s.admin.Self || v.Credential.Kind == sdk.SSHKey && s.admin.AdminAs.Name == v.Account.Name {
			return s
		}
	}
	return nil
}

// maxCompared is what unix_chkpwd compares of a password: some cut off what is longer.
const maxCompared = 200

// judge tells what a refused login says of the secret, which the server does not: its
// answer to a right one is the same where the account is locked, expired, or not allowed
// in. So whoever is logged in as administrator compares the secret with what the target
// stores. Where nobody can, nothing was proven.
func (p *rotator) judge(ctx context.Context, v sdk.VerifyRequest) sdk.VerifyResponse {
	undecided := func(reason string) sdk.VerifyResponse {
		return sdk.VerifyResponse{Verdict: sdk.Undecided, Reason: reason}
	}
	rejected := sdk.VerifyResponse{Verdict: sdk.Rejected, Reason: "bad_secret"}
	s := p.witness(v)
	if s == nil {
		return undecided("not_judged")
	}
	if !accountName(v.Account.Name) {
		return rejected // nobody can be called that
	}
	same := "no_login" // the password is right, and does not open the target by ssh
	var got answer
	var err error
	if v.Credential.Kind == sdk.SSHKey {
		same = "key.not_taken"
		line, bad := publicKey(v.Credential)
		if bad != nil {
			return undecided("not_judged")
		}
		got, err = s.run(ctx, keyFinder, v.Account.Name, keyBody(line))
	} else {
		password := append(v.Credential.Secret.Expose(), 0)
		defer clear(password)
		if bytes.IndexByte(password, 0) < len(password)-1 || len(password) > maxCompared {
			return undecided("not_judged")
		}
		got, err = s.run(ctx, passwordComparer, v.Account.Name, password)
	}
	if err == nil && got.exit == exitMissing { // as far as getent can tell
		got, err = s.run(ctx, absenceProver, v.Account.Name)
	}
	switch {
	case err != nil:
	case got.exit == 0:
		return undecided(same)
	case got.exit == exitLocked:
		return undecided("locked")
	case got.exit == exitOther, got.exit == exitMissing:
		return rejected
	}
	return undecided("not_judged")
}
