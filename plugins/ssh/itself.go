package main

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	"github.com/rotunda-pam/rotunda/sdk"
)

// An account without an administrator changes its own password by passwd, as its holder
// would: on its own session, with the present password and twice the new one on standard
// input, where PAM's conversation reads when that is no terminal.

// changeOwn is not root's way: passwd, which is, asks the rules that the target has for its
// users, and a directory where the account is one of that.
const changeOwn = account + `[ "$(id -un)" = "$R_NAME" ] || exit 109
command -v passwd >/dev/null || exit 92
exec passwd
`

// maxTyped is the longest password that PAM's conversation takes for one line: the rest of a
// longer one would be the answer to the next question.
const maxTyped = 510

// byItself says whether a password is to be changed with the account's own rights. Who was
// seen to become root without a word does it as root, who is not held to present rules.
func (s *session) byItself(name string) bool {
	return s.admin.Self && name == s.admin.AdminAs.Name && s.admin.Admin.Kind == sdk.Password && !s.root && s.sudo != freeSudo
}

func (s *session) setOwn(ctx context.Context, candidate sdk.Credential) (sdk.ApplyResponse, error) {
	current, next := s.admin.Admin.Secret.Expose(), candidate.Secret.Expose()
	defer clear(current)
	defer clear(next)
	unchanged := func(class sdk.Class, reason string) (sdk.ApplyResponse, error) {
		return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: class, Reason: reason}, nil
	}
	if len(next) > maxTyped {
		return unchanged(sdk.ClassPolicy, "policy.length")
	}
	if !oneLine(current) {
		return unchanged(sdk.ClassConflict, "secret.charset")
	}
	got, err := s.run(ctx, ownPasswordSetter, s.admin.AdminAs.Name, current, next, next)
	if err != nil || got.exit == 0 || got.exit >= exitMissing {
		return s.outcome(got, err)
	}

	// passwd calls it unchanged whichever PAM module failed, and one may fail after another has
	// written. What the server takes says which it was.
	still := s.takes(ctx, s.admin.Admin)
	switch {
	case still == nil && bytes.Equal(current, next):
		return sdk.ApplyResponse{Outcome: sdk.Changed}, nil
	case still == nil:
		// Its words go no further: they are the target's, which has been told both secrets.
		return unchanged(refusalIn(strings.Join(strings.Fields(got.out+" "+got.said), " ")))
	case why(still) == refused && s.takes(ctx, candidate) == nil:
		return sdk.ApplyResponse{Outcome: sdk.Changed}, nil
	}
	return sdk.ApplyResponse{}, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "target.failed", Err: fmt.Errorf("passwd ended with %d, and nobody knows whether it set the password before it did: "+
		"a login with the one of before: %w", got.exit, still)}
}

// takes logs in afresh as the account itself.
func (s *session) takes(ctx context.Context, c sdk.Credential) error {
	client, err := login(ctx, s.admin.Host, s.admin.Resource, s.admin.AdminAs.Name, c)
	if err != nil {
		return err
	}
	client.Close()
	return ctx.Err()
}

// refusals are words of PAM's modules, of shadow's passwd without PAM and of directories
// behind sssd, in lower case; the first that is there counts.
var refusals = []struct {
	class  sdk.Class
	reason string
	words  []string
}{
	{sdk.ClassUnreachable, "target.busy", []string{"lock busy"}},
	{sdk.ClassUnreachable, "policy.too_soon", []string{"wait longer to change", "cannot be changed yet", "minimum age", "too soon", "too young"}},
	{sdk.ClassPolicy, "policy.history", []string{"already used", "history"}},
	{sdk.ClassPolicy, "policy.length", []string{"longer password", "shorter password", "shorter than", "too short", "too long"}},
	{sdk.ClassPolicy, "policy.quality", []string{
		"bad password", "weak password", "too simple", "too similar", "palindrome", "case changes", "rotated", "dictionary",
		"complexity", "constraint", "not enough different",
	}},
}

// refusalIn tells why passwd refused a password, by what it said: that it refused is known
// without.
func refusalIn(said string) (sdk.Class, string) {
	said = strings.ToLower(said)
	for _, r := range refusals {
		for _, w := range r.words {
			if strings.Contains(said, w) {
				return r.class, r.reason
			}
		}
	}
	return sdk.ClassConflict, "target.refused"
}
