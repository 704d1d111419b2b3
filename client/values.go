package client

import (
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/rotunda-pam/rotunda/internal/password"
	"github.com/rotunda-pam/rotunda/internal/record"
	"github.com/rotunda-pam/rotunda/sdk"
)

// Record types of the secrets-manager format that Rotunda knows.
const (
	TypeAccount   = "pamUser"
	TypeMachine   = "pamMachine"
	TypeDatabase  = "pamDatabase"
	TypeDirectory = "pamDirectory"
	TypeLogin     = "login"
	TypeScript    = "script"
)

// Kinds of an account's secret.
const (
	SecretPassword = "password"
	SecretSSHKey   = "ssh_key"
	SecretAPIKey   = "api_key"
	SecretToken    = "token"
)

// MaxNotes bounds a record's free text, in bytes.
const MaxNotes = 64 << 10

func isResource(kind string) bool {
	return kind == TypeMachine || kind == TypeDatabase || kind == TypeDirectory
}

// setSecret puts a secret into the field that holds its kind. API keys and tokens are
// passwords to the format, so that every secrets-manager client finds them. publicKey is
// what the caller believes the public half of an ssh_key to be, "" for no belief.
func setSecret(r *record.Record, kind string, secret sdk.Secret, publicKey string) error {
	if secret.Len() > sdk.MaxSecret {
		return invalid("", "the secret is larger than 64 KiB")
	}
	b := secret.Expose()
	defer clear(b)
	if kind == SecretSSHKey {
		public, err := publicHalf(b, publicKey)
		if err != nil {
			return err
		}
		return r.SetKeyPair(record.KeyPair{PublicKey: public, PrivateKey: string(b)})
	}
	if publicKey != "" {
		return invalid("", "only an ssh_key has a public half")
	}
	if !utf8.Valid(b) {
		return &Error{
			Class: Invalid, Reason: "secret.text", Err: errors.New("the secret is not UTF-8 text, and a record holds nothing else"),
			Hint: "store it in base64",
		}
	}
	return r.SetText("password", b)
}

// maxKeyID bounds a key's id at its target, in bytes.
const maxKeyID = sdk.MaxID

// setKeyID sets what the target calls an API key or token: by that a rotation ends it.
func setKeyID(r *record.Record, kind, id string) error {
	if kind != SecretAPIKey && kind != SecretToken {
		return invalid("", "only an api_key or a token has an id at its target")
	}
	if len(id) > maxKeyID {
		return invalid("", "the id of a key has at most %d bytes", maxKeyID)
	}
	if err := textual("key's id", id); err != nil {
		return err
	}
	return r.SetLabelled(record.KeyID, id)
}

// publicHalf is the public half of a private key: what a rotation looks for to end the
// key. So it is never taken on faith.
func publicHalf(private []byte, believed string) (string, error) {
	public, err := password.SSHPublic(private)
	switch {
	case errors.Is(err, password.ErrPassphrase):
		return "", &Error{
			Class: Invalid, Reason: "key.passphrase", Err: err,
			Hint: "no agent could use it: take the passphrase off a copy (ssh-keygen -p -N '' -f COPY), and give that",
		}
	case err != nil:
		return "", &Error{Class: Invalid, Reason: "key.private", Err: err, Hint: "give the file with the private key, such as id_ed25519"}
	case believed != "" && !password.SameSSHPublic(public, []byte(believed)):
		return "", &Error{
			Class: Invalid, Reason: "key.pair", Err: errors.New("the public key does not belong to the private key"),
			Hint: "give the pair that belongs together, or the private key alone: its public half follows from it",
		}
	}
	return string(public), nil
}

// checkPair refuses an ssh_key whose halves, as somebody else wrote them, do not belong
// together.
func checkPair(o *opened) error {
	if o.Statement.GetAccount().GetSecretKind() != SecretSSHKey {
		return nil
	}
	pair, ok := o.data.KeyPair()
	if !ok || pair.PrivateKey == "" {
		return nil // no secret yet
	}
	public, err := publicHalf([]byte(pair.PrivateKey), pair.PublicKey)
	if err == nil && pair.PublicKey == "" {
		err = &Error{
			Class: Invalid, Reason: "key.pair", Err: fmt.Errorf("the record lacks the public half %s", public),
			Hint: "write the private key anew: `rotunda record edit RECORD --password-file FILE`",
		}
	}
	return err
}

// secretOf is the value that a record keeps secret.
func secretOf(r *record.Record) (sdk.Secret, bool) {
	if r == nil {
		return sdk.Secret{}, false
	}
	if b, ok := r.Text("password"); ok && len(b) > 0 {
		defer clear(b)
		return sdk.NewSecret(b), true
	}
	if k, ok := r.KeyPair(); ok && k.PrivateKey != "" {
		return sdk.NewSecret([]byte(k.PrivateKey)), true
	}
	return sdk.Secret{}, false
}

// Field is the first value of a record's first field of a type, if it is text.
func (r *Record) Field(fieldType string) (sdk.Secret, bool) {
	if r.data == nil {
		return sdk.Secret{}, false
	}
	b, ok := r.data.Text(fieldType)
	if !ok {
		return sdk.Secret{}, false
	}
	defer clear(b)
	return sdk.NewSecret(b), true
}

// Login is the login: the statement's, or of records without one the JSON's.
func (r *Record) Login() string {
	if a := r.Statement.GetAccount(); a != nil {
		return a.Login
	}
	return r.text("login")
}

func (r *Record) text(field string) string {
	if r.data == nil {
		return ""
	}
	b, _ := r.data.Text(field)
	return string(b)
}

// Secret is the record's password, or private key.
func (r *Record) Secret() (sdk.Secret, bool) { return secretOf(r.data) }

// PublicKey is the public half of an ssh_key account.
func (r *Record) PublicKey() string {
	if r.data == nil {
		return ""
	}
	k, _ := r.data.KeyPair()
	return k.PublicKey
}

// KeyID is what the target calls the API key or token of an account.
func (r *Record) KeyID() string {
	if r.data == nil {
		return ""
	}
	return r.data.Labelled(record.KeyID)
}

// Notes is the record's free text.
func (r *Record) Notes() string {
	if r.data == nil {
		return ""
	}
	return r.data.Notes()
}

// URL is the record's address.
func (r *Record) URL() string { return r.text("url") }

// Secret is the former password, or private key.
func (h *HistoryValue) Secret() (sdk.Secret, bool) { return secretOf(h.data) }
