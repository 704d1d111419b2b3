package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/rotunda-pam/rotunda/sdk"
)

// fileConfig are the settings of a dependent: files on the host that hold the secret. They
// must be there already, with the owner, the group, the mode and the access lists that they
// keep.
type fileConfig struct {
	Files    []string `json:"files" required:"true" doc:"Absolute paths of the files, written in this order, without links in them. Each is replaced in one step, and keeps its owner, group, mode and access lists."`
	Key      string   `json:"key" doc:"A file of lines NAME=VALUE: the name in whose line the secret stands. Empty: the secret is the whole file, to the last byte."`
	LoginKey string   `json:"login_key" doc:"With key: the name in whose line the account's login stands, which changes with the secret where the account is one of a pair."`
}

// files are the dependents of this plugin.
type files struct{}

// fileData goes with a step.
type fileData struct {
	File     string `json:"file"`
	Key      string `json:"key,omitempty"`
	LoginKey string `json:"login_key,omitempty"`
	Login    string `json:"login,omitempty"`
	Former   string `json:"former,omitempty"` // login
}

const maxFiles = 16

func refuse(reason, format string, args ...any) error {
	return &sdk.Error{Class: sdk.ClassInvalid, Reason: reason, NotSent: true, Err: fmt.Errorf(format, args...)}
}

// Plan looks at each file, and changes none.
func (files) Plan(ctx context.Context, r sdk.OpenRequest, a sdk.ApplyRequest) ([]sdk.Step, error) {
	var c fileConfig
	if err := sdk.DecodeConfig(r.Resource, &c); err != nil {
		return nil, err
	}
	switch {
	case len(c.Files) == 0 || len(c.Files) > maxFiles:
		return nil, refuse("config", "files names %d files: 1 to %d", len(c.Files), maxFiles)
	case c.Key == "" && c.LoginKey != "":
		return nil, refuse("config", "login_key wants key")
	case strings.ContainsAny(c.Key+c.LoginKey, "=\n\r\x00") || c.Key != "" && c.Key == c.LoginKey:
		return nil, refuse("config", "key and login_key are two names, without = and line breaks")
	}
	former := a.Account.Name
	if other, ok := a.Account.Attrs[sdk.PairAttr]; ok {
		former = other
	}
	s, err := openFiles(ctx, r)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	var steps []sdk.Step
	for _, name := range c.Files {
		d := fileData{File: name, Key: c.Key}
		if c.LoginKey != "" {
			d.LoginKey, d.Login, d.Former = c.LoginKey, a.Account.Name, former
		}
		if !strings.HasPrefix(name, "/") || strings.HasSuffix(name, "/") || !oneLine([]byte(name)) {
			return nil, refuse("config", "%q is no absolute path of a file", name)
		}
		if d.Key != "" && a.Candidate.Kind == sdk.SSHKey {
			return nil, refuse("file.lines", "a private key has several lines and cannot be the value of %s: leave out key, and it is the whole file", d.Key)
		}
		got, err := s.file(ctx, fileChecker, d, d.Login, sdk.Secret{})
		if err == nil && got.Outcome != sdk.Changed {
			err = &sdk.Error{Class: got.Class, Reason: got.Reason, NotSent: true, Err: fmt.Errorf("the file %s", name)}
		}
		if err != nil {
			return nil, err
		}
		data, err := json.Marshal(d)
		if err != nil {
			return nil, err
		}
		steps = append(steps, sdk.Step{ID: name, Title: "write " + shorten(name), Data: data})
	}
	return steps, nil
}

// shorten keeps a title within its bounds.
func shorten(name string) string {
	if len(name) > 200 {
		return "…" + strings.ToValidUTF8(name[len(name)-200:], "")
	}
	return strings.ToValidUTF8(name, "?")
}

// fits says whether the secret can stand in the file.
func (d fileData) fits(secret sdk.Secret) bool {
	b := secret.Expose()
	defer clear(b)
	return d.Key == "" || oneLine(b)
}

func (files) Do(ctx context.Context, r sdk.OpenRequest, step sdk.Step, c sdk.Credential) (sdk.StepResponse, error) {
	return write(ctx, r, step, c, func(d fileData) string { return d.Login })
}

func (files) Undo(ctx context.Context, r sdk.OpenRequest, step sdk.Step, c sdk.Credential) (sdk.StepResponse, error) {
	return write(ctx, r, step, c, func(d fileData) string { return d.Former })
}

func write(ctx context.Context, r sdk.OpenRequest, step sdk.Step, c sdk.Credential, login func(fileData) string) (sdk.StepResponse, error) {
	var d fileData
	if err := json.Unmarshal(step.Data, &d); err != nil || d.File == "" {
		return sdk.StepResponse{}, refuse("step.data", "the step's data is not this plugin's")
	}
	if !d.fits(c.Secret) {
		return sdk.StepResponse{Outcome: sdk.Unchanged, Class: sdk.ClassInvalid, Reason: "file.lines"}, nil
	}
	s, err := openFiles(ctx, r)
	if err != nil {
		return sdk.StepResponse{}, err
	}
	defer s.Close()
	return s.file(ctx, fileWriter, d, login(d), c.Secret)
}

// openFiles opens a session of its own: the rotator's are for accounts.
func openFiles(ctx context.Context, r sdk.OpenRequest) (*session, error) {
	s, err := new(rotator).Open(ctx, r)
	if err != nil {
		return nil, err
	}
	return s.(*session), nil
}

// file runs one of the two programs on a file. The secret comes last, after its length.
func (s *session) file(ctx context.Context, p program, d fileData, login string, secret sdk.Secret) (sdk.StepResponse, error) {
	if !oneLine([]byte(login)) && d.LoginKey != "" {
		return sdk.StepResponse{}, refuse("account.name", "the login cannot stand in a line")
	}
	value := secret.Expose()
	defer clear(value)
	rest := append([]byte(strings.Join([]string{d.Key, d.LoginKey, login, strconv.Itoa(len(value))}, "\n")+"\n"), value...)
	defer clear(rest)
	got, err := s.feed(ctx, p, d.File, rest)
	answer, err := s.outcome(got, err)
	if err == nil && answer.Outcome == sdk.Unchanged && answer.Class == sdk.ClassUnreachable { // not now: a step that is unchanged is never tried again
		return sdk.StepResponse{}, &sdk.Error{Class: answer.Class, Reason: answer.Reason, NotSent: true}
	}
	return sdk.StepResponse(answer), err
}

var (
	fileChecker = program{"/bin/sh -c " + quote("inner="+quote(checkFile)+"\n"+asOwner), false}
	fileWriter  = program{"/bin/sh -c " + quote("inner="+quote(writeFile)+"\n"+asOwner), false}
)

// asOwner goes to the file's folder and runs $inner there as the folder's owner: nothing
// that he can change is followed with root's rights. A folder in which still others may
// write is refused, and one to which a link leads, or that somebody else could put another
// in the place of. The file's path is the second line of the input.
const asOwner = `export LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin
IFS= read -r R_FIRST && [ "$R_FIRST" = ` + firstLine + ` ] || exit 99
IFS= read -r R_FILE || exit 99
R_NAME=${R_FILE##*/}; dir=${R_FILE%/*}; dir=${dir:-/}
export R_NAME
cd -P -- "$dir" 2>/dev/null || exit 102
command -v find >/dev/null && command -v stat >/dev/null || exit 92
[ "$(pwd -P)" = "$dir" ] && [ -z "$(find . -maxdepth 0 -perm /022)" ] || exit 104
owner=$(stat -c %U .) || exit 92
above=..
until [ "$above/.." -ef "$above" ]; do
  whose=$(stat -c %U "$above") || exit 92
  [ "$whose" = root ] || [ "$whose" = "$owner" ] || exit 104
  [ -z "$(find "$above" -maxdepth 0 -perm /022 ! -perm -1000)" ] || exit 104
  above=$above/..
done
if [ "$(id -un)" = "$owner" ]; then exec /bin/sh -c "$inner"; fi
[ "$(id -u)" = 0 ] || exit 93
if command -v runuser >/dev/null; then exec runuser -u "$owner" -- /bin/sh -c "$inner"; fi
command -v su >/dev/null || exit 92
exec su -s /bin/sh -c "$inner" -- "$owner"
`

// checkFile: the file is there, and whoever runs this can put another in its place that
// has its owner and its group.
const checkFile = `[ -f "./$R_NAME" ] && [ ! -L "./$R_NAME" ] || exit 102
if [ "$(id -u)" != 0 ]; then
  [ "$(stat -c %u "./$R_NAME")" = "$(id -u)" ] || exit 103
  case " $(id -G) " in *" $(stat -c %g "./$R_NAME") "*) ;; *) exit 103 ;; esac
fi
[ -r "./$R_NAME" ] && [ -r . ] && [ -w . ] || exit 103
for tool in awk cksum cmp cp ls mktemp wc; do command -v "$tool" >/dev/null || exit 92; done
cp --help 2>/dev/null | grep -q -e --attributes-only || exit 92
`

// writeFile: the next four lines are the key, the login's key, the login and how many
// bytes the secret has, which follows; of a line that broke off no half is taken. The new
// file is made beside the old one, with its owner, group, mode and access lists before
// anything is in it, and takes its place in one step. Of two that do so at once, one would
// undo the other: they take turns by a lock on the folder, and whoever does not know the
// lock is noticed before the last step. What a killed one has left the next one removes.
const writeFile = checkFile + `IFS= read -r key && IFS= read -r login_key && IFS= read -r login && IFS= read -r len || exit 98
umask 077
exec 9<.
if command -v flock >/dev/null; then flock -n 9 || flock -w 20 9 || exit 98; fi
rm -f -- "./.rotunda-new.$R_NAME".??????
was=$(cksum <"./$R_NAME")
t=
trap '[ -z "$t" ] || rm -f -- "$t"' EXIT
trap 'exit 98' HUP INT TERM PIPE
t=$(mktemp "./.rotunda-new.$R_NAME.XXXXXX") || exit 103
looks() { stat -c "%a %u %g" "$1" && ls -ld "$1" | cut -c 1-11; }
cp --attributes-only --preserve=all -- "./$R_NAME" "$t" 2>/dev/null
[ "$(looks "$t")" = "$(looks "./$R_NAME")" ] || exit 103
if [ -z "$key" ]; then
  cat >"$t" || exit 103
  [ "$(wc -c <"$t")" -eq "$len" ] || exit 98
else
  IFS= read -r secret
  [ "$(printf %s "$secret" | wc -c)" -eq "$len" ] || exit 98
  export key login_key login
  printf "%s\n" "$secret" | awk "NR == FNR { secret = \$0; next }
    index(\$0, ENVIRON[\"key\"] \"=\") == 1 { if (!k++) print ENVIRON[\"key\"] \"=\" secret; next }
    ENVIRON[\"login_key\"] != \"\" && index(\$0, ENVIRON[\"login_key\"] \"=\") == 1 { if (!l++) print ENVIRON[\"login_key\"] \"=\" ENVIRON[\"login\"]; next }
    { print }
    END { if (!k) print ENVIRON[\"key\"] \"=\" secret; if (ENVIRON[\"login_key\"] != \"\" && !l) print ENVIRON[\"login_key\"] \"=\" ENVIRON[\"login\"] }" - "./$R_NAME" >"$t" || exit 103
fi
if cmp -s -- "$t" "./$R_NAME"; then exit 0; fi
sync "$t" 2>/dev/null
[ "$(cksum <"./$R_NAME")" = "$was" ] || exit 98
mv -f -- "$t" "./$R_NAME" || exit 103
t=
sync . 2>/dev/null
exit 0
`
