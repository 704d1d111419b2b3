package main

import "strings"

// Exit codes of the scripts. They lie above those of sudo, sh and the tools.
const (
	exitMissing  = 91 // no account of that name
	exitNoTool   = 92 // no chpasswd, no passwd, or no way to become the user
	exitNotRoot  = 93
	exitNoHome   = 94  // the home folder is not there
	exitKeys     = 95  // authorized_keys could not be written; it is as it was
	exitKeepGone = 96  // the key to be kept is not there: nothing was removed
	exitRefused  = 97  // chpasswd did not take it, and the account has the hash that it had
	exitBusy     = 98  // others were changing the file, or the line broke off: it is as they left it
	exitInput    = 99  // the input is not what the script expects: sudo left its password in it
	exitOther    = 100 // the account has another secret, or none
	exitForeign  = 105 // an account that this plugin has not made
	exitUser     = 106 // the account could not be made or removed
	exitHalf     = 107 // it was made in part
	exitNoFile   = 102 // no such file
	exitFile     = 103 // it could not be written; it is as it was
	exitFolder   = 104 // others than its owner may write in its folder, or put another in its place
	exitUnclear  = 108 // chpasswd failed, and may have set it
	exitOtherOne = 109 // the session is not the account's own
	exitOptions  = 110 // the key's lines in authorized_keys differ in their options
	exitLocked   = 101 // it has one that is locked: it cannot be compared, and a new one would unlock the account
)

// firstLine begins the input of every script. Where sudo asks for no password although
// one is sent, the password would be that line: it must get no further than the shell.
const firstLine = "rotunda"

// program is a fixed command; its input is firstLine, the account's name, and more.
type program struct {
	command string
	own     bool // the account may run it itself
}

var (
	passwordSetter    = program{"/bin/sh -c " + quote(setPassword), false}
	ownPasswordSetter = program{"/bin/sh -c " + quote(changeOwn), true}
	passwordComparer  = program{"/bin/sh -c " + quote(comparePassword), false}
	keyAdder          = asAccount(addKey)
	keyDropper        = asAccount(dropKey)
	keyFinder         = asAccount(findKey)
	absenceProver     = program{"/bin/sh -c " + quote(proveAbsence), true}
)

// asAccount runs an inner script as the account.
func asAccount(inner string) program {
	return program{"/bin/sh -c " + quote("inner="+quote(inner)+"\n"+asUser), true}
}

// named reads the account's name from the second line of the input.
const named = `export LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin
IFS= read -r R_FIRST && [ "$R_FIRST" = ` + firstLine + ` ] || exit 99
IFS= read -r R_NAME || exit 91
`

// account makes sure that the name is one: getent would take a number for a user id.
const account = named + `line=$(getent passwd -- "$R_NAME") || exit 91
[ "${line%%:*}" = "$R_NAME" ] || exit 91
`

// hashOf reads the account's stored hash, and what is left of it without the ! in front
// by which an administrator locks a password. An account that never had one has * or !.
const hashOf = `hash=${line#*:}; hash=${hash%%:*}; bare=$hash
while [ "${bare#!}" != "$bare" ]; do bare=${bare#!}; done
`

// setPassword: the second line is what chpasswd reads, name:password. Where the hashes
// are elsewhere (a directory), chpasswd decides. It also fails once it has set a password:
// by a PAM module after the one that writes, or by a signal. So a failure is a refusal
// only where the machine's own hash shows it. The shell compares: a hash is in no command line.
const setPassword = account + `[ "$(id -u)" = 0 ] || exit 93
command -v chpasswd >/dev/null || exit 92
if line=$(getent shadow -- "$R_NAME"); then
` + hashOf + `case $bare in ""|"*") ;; *) [ "$bare" = "$hash" ] || exit 101 ;; esac
fi
own() { h=$(getent -s files shadow -- "$R_NAME") || h=; h=${h#*:}; h=${h%%:*}; }
own; was=$h
chpasswd >/dev/null 2>&1 && exit 0
own
case $was in ""|"*"|"!"*) exit 108 ;; esac
[ "$h" = "$was" ] && exit 97
exit 108
`

// comparePassword: the rest of the input is the password and a zero byte, as pam_unix's
// own helper wants it. That takes a locked password (behind a !) for a wrong one, and asks
// whichever source comes first: a directory has * or x for a password that it does not show.
// So both entries must be the machine's own files', and the hash must look like one. That PAM
// asks Kerberos or a directory about a login all the same, they do not tell (docs/targets.md).
const comparePassword = account + `[ "$(id -u)" = 0 ] || exit 93
for map in passwd shadow; do
  line=$(getent -s files "$map" -- "$R_NAME") && [ "$line" = "$(getent "$map" -- "$R_NAME")" ] || exit 92
done
` + hashOf + `case $bare in ""|"*") [ -z "$hash" ] || exit 100 ;; esac
[ "$bare" = "$hash" ] || exit 101
case $hash in ""|[\$_./0-9A-Za-z]????????????*) ;; *) exit 92 ;; esac
command -v unix_chkpwd >/dev/null || exit 92
unix_chkpwd "$R_NAME" nonull >/dev/null 2>&1
case $? in 0) exit 0 ;; 7) exit 100 ;; esac
exit 92
`

// proveAbsence ends with 91 where there is certainly no such account. Getent says so, too,
// while a directory does not answer: the machine's files must be all that it asks. A + in
// them is a directory's. Systemd's accounts are those of this machine, unless another's
// service stands where its module looks for them.
const proveAbsence = named + `[ -r /etc/passwd ] || exit 92
while IFS=: read -r name rest || [ -n "$name" ]; do
  case $name in "$R_NAME"|+*) exit 92 ;; esac
done </etc/passwd
set -f
for f in /etc/nsswitch.conf /usr/etc/nsswitch.conf; do
  [ -e "$f" ] || continue
  sources=$(sed -n "s/#.*//; s/^[[:space:]]*passwd[[:space:]]*:[[:space:]]*//p" "$f") && [ -n "$sources" ] || exit 92
  for s in $sources; do
    case $s in files|compat) continue ;; systemd) ;; *) exit 92 ;; esac
    [ -e /run/systemd/userdb ] || continue
    services=$(ls -A /run/systemd/userdb) || exit 92
    for n in $services; do
      case $n in io.systemd.*) ;; *) exit 92 ;; esac
    done
  done
done
exit 91
`

// asUser runs $inner as the account itself, so that nothing in its home, which it can
// change at will, is followed with root's rights.
const asUser = account + `R_HOME=${line%:*}; R_HOME=${R_HOME##*:}
[ -d "$R_HOME" ] || exit 94
export R_HOME
if [ "$(id -un)" = "$R_NAME" ]; then exec /bin/sh -c "$inner"; fi
[ "$(id -u)" = 0 ] || exit 93
if command -v runuser >/dev/null; then exec runuser -u "$R_NAME" -- /bin/sh -c "$inner"; fi
command -v su >/dev/null || exit 92
exec su -s /bin/sh -c "$inner" -- "$R_NAME"
`

// replaceKeys begins both inner scripts: the new file is made beside the old one, with
// its mode, and takes its place in one step. Of two that do so at once, one would undo
// the other: they take turns by a lock on the folder, which ends with the script however
// that ends. Whoever does not know the lock is noticed before the last step.
const replaceKeys = `umask 077
f=$R_HOME/.ssh/authorized_keys
[ -L "$f" ] && f=$(readlink -f -- "$f")
sum() { if [ -e "$f" ]; then cksum <"$f"; fi; }
turn() {
  [ -r "$R_HOME/.ssh" ] || exit 95
  exec 9<"$R_HOME/.ssh"
  if command -v flock >/dev/null; then flock -n 9 || flock -w 20 9 || exit 98; fi
  was=$(sum)
}
put() {
  [ -e "$f" ] && chmod --reference="$f" "$t" 2>/dev/null
  sync "$t" 2>/dev/null
  [ "$(sum)" = "$was" ] || { rm -f -- "$t"; exit 98; }
  mv -f -- "$t" "$f" || { rm -f -- "$t"; exit 95; }
  sync "${f%/*}" 2>/dev/null
  return 0
}
`

// keyLine has awk take a line of authorized_keys apart as sshd does. In front of a key's
// type and body may be options, in which a blank may be quoted; every body begins with AAAA.
const keyLine = `
function word(  i, c, quoted) {
  sub(/^[ \t]+/, "", rest)
  for (i = 1; i <= length(rest); i++) {
    c = substr(rest, i, 1)
    if (c == backslash && substr(rest, i + 1, 1) == "\"") i++
    else if (c == "\"") quoted = !quoted
    else if (!quoted && (c == " " || c == "\t")) break
  }
  c = substr(rest, 1, i - 1)
  rest = substr(rest, i)
  return c
}
function holds(key,  first, body) {
  if (key == "" || !index($0, key) || /^[ \t]*#/) return 0
  rest = $0; options = ""
  first = word(); body = word()
  if (body !~ /^AAAA/) { options = first; body = word() }
  sub(/\r$/, "", body)
  return body == key
}
BEGIN { backslash = sprintf("%c", 92) }
`

// addKey: the next lines are the public key, and the body of the one that the account has
// now, or nothing. What that one's line restricts it to, the new key is restricted to as
// well. Options may hold what is secret (environment=), so they are in no command line. A
// file without a last newline gets one, else the key would be part of the line before.
const addKey = replaceKeys + `IFS= read -r key && IFS= read -r current || exit 95
[ -d "$R_HOME/.ssh" ] || mkdir -p -- "$R_HOME/.ssh" || exit 95
turn
unset options
if [ -e "$f" ]; then
  command -v awk >/dev/null || exit 92
  options=$(awk -v new="${key#* }" -v current="$current" '` + keyLine + `
current != new && holds(current) { known++; has[options] }
holds(new) { there++; has[options] }
END {
  for (o in has) kinds++
  if (known && kinds > 1) exit 4
  if (there) exit 3
  for (o in has) print o
}' "$f")
  case $? in 0) ;; 3) exit 0 ;; 4) exit 110 ;; *) exit 95 ;; esac
fi
t=$(mktemp "$f.XXXXXX") || exit 95
if [ -e "$f" ]; then
  cat -- "$f" >"$t" || { rm -f -- "$t"; exit 95; }
  if [ -s "$f" ] && [ -n "$(tail -c 1 -- "$f")" ]; then echo >>"$t" || { rm -f -- "$t"; exit 95; }; fi
fi
printf "%s\n" "${options:+$options }$key" >>"$t" || { rm -f -- "$t"; exit 95; }
put
`

const hasKey = `has() { awk -v k="$1" '` + keyLine + `holds(k) { found = 1 } END { exit !found }' "$f"; }
`

// findKey: the next line is the body of the key that is looked for.
const findKey = hasKey + `IFS= read -r key || exit 95
f=$R_HOME/.ssh/authorized_keys
[ -e "$f" ] || exit 100
has "$key"
case $? in 0) exit 0 ;; 1) exit 100 ;; esac
exit 95
`

// dropKey: the next lines are the bodies (base64) of the key to keep and of the one to
// remove. Only lines of exactly that key go.
const dropKey = replaceKeys + hasKey + `IFS= read -r keep && IFS= read -r old || exit 95
[ -e "$f" ] || exit 96
turn
has "$keep" || exit 96
has "$old" || exit 0
t=$(mktemp "$f.XXXXXX") || exit 95
awk -v k="$old" '` + keyLine + `!holds(k)' "$f" >"$t" || { rm -f -- "$t"; exit 95; }
put
`

// quote makes one word of a fixed text. Nothing of a request ever passes through it.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
