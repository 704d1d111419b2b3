package client

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"

	"filippo.io/age"
	"filippo.io/age/armor"

	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/sdk"
)

// Kit is the recovery kit. Both forms hold the same keys.
type Kit struct {
	OrgID seal.Digest
	File  []byte     // age file for whoever opens it
	Paper sdk.Secret // text to print: it is the keys in clear
}

// kitKeys are what a kit holds.
type kitKeys struct {
	V        int         `json:"v"`
	OrgID    seal.Digest `json:"org_id"`
	Recovery seal.ID     `json:"recovery_id"`
	Root     []byte      `json:"root"` // Ed25519 seed, 32
	Seal     []byte      `json:"seal"` // HPKE, 32
}

func (k *kitKeys) wipe() {
	clear(k.Root)
	clear(k.Seal)
}

func (k *kitKeys) check() error {
	if k.V != 1 || k.OrgID.IsZero() || k.Recovery.IsZero() || len(k.Root) != ed25519.SeedSize || len(k.Seal) != seal.SealKeySize {
		return errors.New("the recovery kit is damaged, or of a newer version")
	}
	return nil
}

const (
	// kitWork is the age file's scrypt work factor: about a second.
	kitWork = 18
	maxKit  = 1 << 16
)

// openers are those who can open a kit: whoever has one of the keys, or else the passphrase.
func openers(passphrase sdk.Secret, recipients []string) ([]age.Recipient, error) {
	if len(recipients) > 0 {
		return age.ParseRecipients(strings.NewReader(strings.Join(recipients, "\n")))
	}
	// age takes the passphrase as a string only.
	r, err := age.NewScryptRecipient(passphrase.ExposeString())
	if err != nil {
		return nil, err
	}
	r.SetWorkFactor(kitWork)
	return []age.Recipient{r}, nil
}

// KitNeedsKey reports whether a kit's file was made for a key, and not for a passphrase;
// isKit is false where it is no file of age's at all.
func KitNeedsKey(file []byte) (needs, isKit bool) {
	const begin = "age-encryption.org/v1\n-> "
	head := make([]byte, len(begin)+len("scrypt "))
	n, _ := io.ReadFull(ageFile(file), head) // too short a file is none
	head = head[:n]
	return !bytes.HasSuffix(head, []byte("\n-> scrypt ")), bytes.HasPrefix(head, []byte(begin))
}

// ageFile reads a file of age's, which may have been armored since for a printer or the mail.
func ageFile(file []byte) io.Reader {
	if text := bytes.TrimSpace(file); bytes.HasPrefix(text, []byte(armor.Header)) {
		return armor.NewReader(bytes.NewReader(text))
	}
	return bytes.NewReader(file)
}

// sealKit makes both forms of a kit.
func sealKit(k kitKeys, to []age.Recipient) (Kit, error) {
	plain, err := json.Marshal(k)
	if err != nil {
		return Kit{}, err
	}
	defer clear(plain)
	var file bytes.Buffer
	w, err := age.Encrypt(&file, to...)
	if err != nil {
		return Kit{}, err
	}
	if _, err := w.Write(plain); err != nil {
		return Kit{}, err
	}
	if err := w.Close(); err != nil {
		return Kit{}, err
	}
	return Kit{OrgID: k.OrgID, File: file.Bytes(), Paper: k.paper()}, nil
}

// openKit opens the age file, by the keys of an age identity file or else by the passphrase.
func openKit(file []byte, passphrase, identity sdk.Secret) (kitKeys, error) {
	const op = "open the recovery kit"
	wrong := &Error{Class: Denied, Reason: "passphrase", Op: op, Err: errors.New("wrong passphrase")}
	var by []age.Identity
	if identity.Len() > 0 {
		wrong = &Error{Class: Denied, Reason: "kit_key", Op: op, Err: errors.New("the kit was made for another key"), Hint: "give the identity whose recipient `rotunda org init --kit-recipient` was given"}
		var err error
		text := identity.Expose()
		defer clear(text)
		if by, err = age.ParseIdentities(bytes.NewReader(text)); err != nil {
			// Its words may quote the key.
			return kitKeys{}, invalid(op, "the identity file is none of age's in clear: one that is itself under a passphrase has to be decrypted by age first")
		}
	} else {
		id, err := age.NewScryptIdentity(passphrase.ExposeString())
		if err != nil {
			return kitKeys{}, invalid(op, "the passphrase is empty")
		}
		id.SetMaxWorkFactor(kitWork + 4)
		by = []age.Identity{id}
	}
	r, err := age.Decrypt(ageFile(file), by...)
	var none *age.NoIdentityMatchError
	if errors.As(err, &none) {
		return kitKeys{}, wrong
	}
	if err != nil {
		return kitKeys{}, invalid(op, "this is no age file: %v", err)
	}
	plain, err := io.ReadAll(io.LimitReader(r, maxKit))
	if err != nil {
		return kitKeys{}, invalid(op, "the file is damaged: %v", err)
	}
	defer clear(plain)
	var k kitKeys
	if json.Unmarshal(plain, &k) != nil {
		return kitKeys{}, invalid(op, "the file is an age file, but no recovery kit")
	}
	if err := k.check(); err != nil {
		return kitKeys{}, invalid(op, "%v", err)
	}
	return k, nil
}

// The paper is lines of a number, six groups of four base32 characters (15
// bytes), and a check group of four, so that a slip of the pen is found in its line.
const (
	paperLine  = 15
	paperLines = (1 + 32 + 16 + 32 + 32 + paperLine - 1) / paperLine
)

func (k *kitKeys) paper() sdk.Secret {
	raw := make([]byte, 0, paperLines*paperLine)
	raw = append(raw, 1)
	raw = append(raw, k.OrgID[:]...)
	raw = append(raw, k.Recovery[:]...)
	raw = append(raw, k.Root...)
	raw = append(raw, k.Seal...)
	raw = append(raw, make([]byte, paperLines*paperLine-len(raw))...)
	defer clear(raw)
	var text bytes.Buffer
	fmt.Fprintf(&text, "ROTUNDA RECOVERY KIT\n\nOrganisation %s\n\nThese lines are the keys of the whole organisation. Keep them locked away.\n\n", k.OrgID.Fingerprint())
	for n := range paperLines {
		part := raw[n*paperLine : (n+1)*paperLine]
		fmt.Fprintf(&text, "%02d ", n+1)
		code := base32.StdEncoding.EncodeToString(part)
		for len(code) > 0 {
			text.WriteString(" " + code[:4])
			code = code[4:]
		}
		text.WriteString("  " + paperCheck(n, part) + "\n")
	}
	defer func() { clear(text.Bytes()) }()
	return sdk.NewSecret(text.Bytes())
}

func paperCheck(n int, part []byte) string {
	d := seal.Hash([]byte("rotunda/v1/paper"), []byte{0, byte(n)}, part)
	return base32.StdEncoding.EncodeToString(d[:5])[:4]
}

// readPaper reads what a person typed from the paper: the numbered lines, in any
// order, small or large, with the letters that digits are taken for.
func readPaper(text sdk.Secret) (kitKeys, error) {
	const op = "read the recovery paper"
	b := text.Expose()
	defer clear(b)
	if len(b) > maxKit {
		return kitKeys{}, invalid(op, "the text is too long")
	}
	raw := make([]byte, paperLines*paperLine)
	defer clear(raw)
	var have [paperLines]bool
	for line := range strings.Lines(string(b)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		n, err := strconv.Atoi(fields[0])
		if err != nil || len(fields[0]) > 2 {
			continue // a heading
		}
		if n < 1 || n > paperLines {
			return kitKeys{}, invalid(op, "there is no line %d", n)
		}
		code := strings.Map(paperRune, strings.Join(fields[1:], ""))
		if len(code) != 28 {
			return kitKeys{}, invalid(op, "line %02d has %d characters after its number, not 28", n, len(code))
		}
		part, err := base32.StdEncoding.DecodeString(code[:24])
		if err != nil || paperCheck(n-1, part) != code[24:] {
			return kitKeys{}, invalid(op, "line %02d has a slip in it", n)
		}
		copy(raw[(n-1)*paperLine:], part)
		clear(part)
		have[n-1] = true
	}
	for n, ok := range have {
		if !ok {
			return kitKeys{}, invalid(op, "line %02d is missing", n+1)
		}
	}
	k := kitKeys{V: int(raw[0]), OrgID: seal.Digest(raw[1:33]), Recovery: seal.ID(raw[33:49])}
	k.Root = append([]byte(nil), raw[49:81]...)
	k.Seal = append([]byte(nil), raw[81:113]...)
	if err := k.check(); err != nil {
		return kitKeys{}, invalid(op, "%v", err)
	}
	return k, nil
}

func paperRune(r rune) rune {
	switch r = unicode.ToUpper(r); r {
	case '0':
		return 'O'
	case '1':
		return 'I'
	case '8':
		return 'B'
	case '-':
		return -1
	}
	return r
}
