package client

import "strings"

const (
	lookAtRun    = "`rotunda run show` has what the script said, and where it stopped"
	lookAtFile   = "look at the file at the target, and at what the script was told to change in it: `rotunda run show` has what it said"
	lookAtScript = "the script is wrong here: `rotunda script check` and its test tell more; `rotunda script update` puts a mended one in its place"
	laterScript  = "the target did not answer as it should: see that it runs, then `rotunda script run ACCOUNT`, or rotate again"
)

// scriptHints are by the codes of the plugin that hosts scripts. A script's own codes are
// its author's.
var scriptHints = map[string]string{
	"test":             "a script's test says what is wrong: `rotunda script test`",
	"script.error":     lookAtScript,
	"script.failed":    lookAtRun,
	"script.plan":      lookAtScript,
	"script.no_undo":   "the script cannot take its step back: look at what it changed, and set it right by hand",
	"script.loaded":    lookAtPlugin,
	"verb.load":        lookAtPlugin,
	"verb.run":         lookAtPlugin,
	"verb.open":        lookAtPlugin,
	"verb.verify":      lookAtPlugin,
	"dial":             lookAtTarget,
	"local.lost":       "the agent did not answer: its log says more",
	"dialogue.closed":  laterScript,
	"dialogue.timeout": laterScript,
	"http.redirect":    "the target sends on to another address: give the script the address that it sends to",
	"http.scheme":      "give the address with http:// or https://, as the resource's TLS is set",
	"http.url":         lookAtScript,
	"http.json":        laterScript,
	"path.not_found":   lookAtRun,
	"path.wrong":       lookAtScript,
	"sftp":             laterScript,
	"sftp.kind":        "the script takes a plain file there, and no folder, link or device",
	"sftp.missing":     "make the file at the target, with the owner and mode that it shall have",
	"sftp.permission":  "let the login that the script uses read and write the file and its folder",
	"sftp.refused":     "the target's SFTP server refuses it; its log says why",
	"sftp.rename":      "the target cannot put a file in another's place: the file is as it was; look at its folder and file system",
	"sftp.too_large":   lookAtRun,
	"sql.driver":       lookAtTarget,
	"sql.login":        "name a login of the server itself, and none of a Windows domain",
	"sql.redirect":     "set the address of the server that it sends on to",
	"sql.too_large":    "have the script ask for less: `rotunda script update`",
	"text.ambiguous":   lookAtFile,
	"text.edit":        lookAtFile,
	"text.key":         lookAtFile,
	"text.not_a_value": lookAtFile,
	"text.shared":      lookAtFile,
	"text.unreadable":  lookAtFile,
	"text.value":       "the secret has characters that this place in the file cannot hold: `rotunda record edit ACCOUNT --policy-exclude`",
}

// scriptHint is that of a script's code, or of a database's own, which scripts pass on.
func scriptHint(reason string) string {
	if h, ok := scriptHints[reason]; ok {
		return h
	}
	if strings.HasPrefix(reason, "sql.") {
		return "the database refused what the script asked, by this code of its own: `rotunda run show` has what the script said"
	}
	return ""
}
