package trust

import (
	"crypto/ed25519"

	"github.com/rotunda-pam/rotunda/internal/seal"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// SignStatement fills in v and the log's head and signs. It refuses a statement
// that no reader would decode (Malformed); rights are CheckSigner's business.
func SignStatement(l *Log, key ed25519.PrivateKey, s *trustv1.Statement) (signed []byte, digest seal.Digest, err error) {
	panic("unbuilt")
}

// Statement is a decoded statement whose signature holds.
type Statement struct {
	*trustv1.Statement
	Ref    Ref
	Digest seal.Digest
	Signed []byte
	Signer Entry // the device
}

// OpenStatement decodes a Signed{Statement} and checks signer, signature and log
// head, and the signer's roles for the record itself (4.2 step 4): SignerUnknown,
// SignatureBad, NotAllowed, LogGap, LogFork, Malformed, UnknownField. What it
// names is CheckLinks' business.
func OpenStatement(l *Log, signed []byte) (*Statement, error) { panic("unbuilt") }

// References lists every record that a statement names, each once, with what is
// needed on its folder.
func References(s *trustv1.Statement) []Reference { panic("unbuilt") }

// Reference is a record that a statement names.
type Reference struct {
	Ref   Ref
	As    string // resource, via, administrator, extra, pair, dependent, record, script
	Needs Roles  // of the signer, in the record's folder
}

// CheckLinks is 4.2 step 9, for one record: the statement's signer still has the
// rights of 3.2 in the folder of everything that it names, and the pool may read
// each. pool is the account's resource's, or the resource's own; zero leaves the
// pool out (a client that cannot read the resource). NotLinked.
func CheckLinks(l *Log, s *Statement, pool seal.ID) error { panic("unbuilt") }

// CheckPlugin is the first half of 4.2 step 8: the binary is built in, or the log
// approves it for that name: PluginUnknown.
func CheckPlugin(l *Log, builtIn func(name string, sha256 seal.Digest) bool, name string, sha256 seal.Digest) error {
	panic("unbuilt")
}

// CheckScript is the second half of 4.2 step 8: the file's hash is that of the
// using record's list and of the script's own statement: ScriptChanged.
func CheckScript(use *trustv1.ScriptUse, script *Statement, file seal.Digest) error {
	panic("unbuilt")
}
