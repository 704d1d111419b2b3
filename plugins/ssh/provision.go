package main

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/rotunda-pam/rotunda/sdk"
)

// provisioner makes Unix accounts that live for a while. Those that it has made have a
// full name of their own in the user database; no other is touched.
type provisioner struct{}

func (provisioner) Provision(ctx context.Context, r sdk.OpenRequest, a sdk.ApplyRequest) (sdk.ApplyResponse, error) {
	until := ""
	if s := a.Account.Attrs[sdk.UntilAttr]; s != "" {
		t, err := time.Parse(time.RFC3339, s)
		if err != nil {
			return sdk.ApplyResponse{}, refuse("account.until", "%w", err)
		}
		// The system counts whole days, and the account is good before that one.
		until = t.UTC().AddDate(0, 0, 1).Format(time.DateOnly)
	}
	groups := a.Account.Attrs[sdk.GroupsAttr]
	if groups != "" && !oneLine([]byte(groups)) {
		return sdk.ApplyResponse{}, refuse("account.groups", "no group has such a name")
	}
	if !guestName(a.Account.Name) {
		return badName, nil
	}
	if out, err := checkCandidate(a.Candidate); err != nil || out.Outcome == sdk.Unchanged {
		return out, err
	}
	s, err := openFiles(ctx, r)
	if err != nil {
		return sdk.ApplyResponse{}, err
	}
	defer s.Close()
	out, err := s.outcome(s.run(ctx, accountMaker, a.Account.Name, []byte(until), []byte(groups)))
	if err != nil || out.Outcome != sdk.Changed {
		return out, err
	}
	out, err = s.Apply(ctx, a)
	// The account is there: nothing that follows is "nothing was sent", or "unchanged".
	if err == nil && out.Outcome == sdk.Unchanged {
		return sdk.ApplyResponse{}, &sdk.Error{Class: out.Class, Reason: out.Reason, Err: errors.New("the account is there, and did not get the secret")}
	}
	if own := (*sdk.Error)(nil); errors.As(err, &own) {
		err = &sdk.Error{Class: own.Class, Reason: own.Reason, Err: own.Err}
	}
	return out, err
}

// checkCandidate refuses, before there is an account, what none would take.
func checkCandidate(c sdk.Credential) (sdk.ApplyResponse, error) {
	if c.Kind == sdk.SSHKey {
		_, err := publicKey(c)
		return sdk.ApplyResponse{}, err
	}
	password := c.Secret.Expose()
	defer clear(password)
	if !oneLine(password) {
		return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: sdk.ClassPolicy, Reason: "policy.charset"}, nil
	}
	return sdk.ApplyResponse{}, nil
}

func (provisioner) Deprovision(ctx context.Context, r sdk.OpenRequest, a sdk.Account) (sdk.ApplyResponse, error) {
	if !guestName(a.Name) {
		return badName, nil
	}
	s, err := openFiles(ctx, r)
	if err != nil {
		return sdk.ApplyResponse{}, err
	}
	defer s.Close()
	return s.outcome(s.run(ctx, accountRemover, a.Name))
}

var badName = sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: sdk.ClassInvalid, Reason: "account.name"}

// guestName tells whether an account that comes and goes can have this name. One of
// digits alone is no name to getent and pkill, but the id of another account.
func guestName(name string) bool {
	return accountName(name) && !strings.HasPrefix(name, "-") && strings.Trim(name, "0123456789") != ""
}

var (
	accountMaker   = program{"/bin/sh -c " + quote(makeAccount), false}
	accountRemover = program{"/bin/sh -c " + quote(removeAccount), false}
)

// guest reads the account's name and looks whether it is one of ours. The mark is the full
// name alone: what follows the comma (a room, telephones) its holder may change by chfn.
const guest = `export LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin
IFS= read -r R_FIRST && [ "$R_FIRST" = ` + firstLine + ` ] || exit 99
IFS= read -r R_NAME || exit 99
[ "$(id -u)" = 0 ] || exit 93
mark="made by rotunda"
if line=$(getent passwd -- "$R_NAME") && [ "${line%%:*}" = "$R_NAME" ]; then
  full=$(printf %s "$line" | cut -d: -f5); full=${full%%,*}
  [ "$full" = "$mark" ] || exit 105
  found=1
fi
`

// makeAccount: no password opens the account, and unlike a locked one (!) it can have keys.
// Useradd writes the account before it makes the home, and leaves it there where that fails.
// The next two lines are the day on which it ends, and its groups.
const makeAccount = guest + `IFS= read -r until && IFS= read -r groups || exit 99
command -v useradd >/dev/null && command -v usermod >/dev/null || exit 92
if [ -n "$found" ]; then
  usermod -e "$until" -G "$groups" -- "$R_NAME" >/dev/null 2>&1 || exit 106
else
  useradd -m -s /bin/sh -p "*" -c "$mark" -e "$until" -G "$groups" -- "$R_NAME" >/dev/null 2>&1 || {
    getent passwd -- "$R_NAME" >/dev/null && exit 107
    exit 106
  }
fi
`

// removeAccount ends what the account still runs: nobody can be removed before.
const removeAccount = guest + `[ -n "$found" ] || exit 0
command -v userdel >/dev/null || exit 92
usermod -L -e 1970-01-02 -- "$R_NAME" >/dev/null 2>&1 || exit 106
if command -v pkill >/dev/null; then pkill -KILL -u "$R_NAME" 2>/dev/null; fi
n=0
until userdel -r -- "$R_NAME" >/dev/null 2>&1; do
  getent passwd -- "$R_NAME" >/dev/null || exit 0
  n=$((n + 1)); [ "$n" -lt 20 ] || exit 106
  sleep 0.1
done
`
