package seal_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"testing/cryptotest"

	"github.com/rotunda-pam/rotunda/internal/seal"
)

var update = flag.Bool("update", false, "write the vectors in testdata/seal anew")

const vectorDir = "../../testdata/seal"

// A vector is one deterministic operation: inputs and output in hex (text where
// the name says so). An empty out with refuse set means that it must fail.
type vector struct {
	Name   string            `json:"name"`
	Op     string            `json:"op"`
	In     map[string]string `json:"in"`
	Out    string            `json:"out,omitempty"`
	Refuse bool              `json:"refuse,omitempty"`
}

// inputs reads a vector's inputs; a vector that lacks one fails its test.
type inputs struct {
	t  testing.TB
	in map[string]string
}

func (i inputs) bytes(name string) []byte {
	b, err := hex.DecodeString(i.text(name))
	if err != nil {
		i.t.Fatalf("input %s is not hex: %v", name, err)
	}
	return b
}

func (i inputs) text(name string) string {
	s, ok := i.in[name]
	if !ok {
		i.t.Fatalf("no input %s", name)
	}
	return s
}
func (i inputs) org() seal.Digest         { return seal.Digest(i.bytes("org_id")) }
func (i inputs) id(name string) seal.ID   { return seal.ID(i.bytes(name)) }
func (i inputs) key(name string) seal.Key { return keyOf(i.bytes(name)) }

var errRefused = errors.New("refused")

// The operations, each from one input set to one output.
var ops = map[string]func(inputs) ([]byte, error){
	"derive": func(i inputs) ([]byte, error) {
		k := seal.Derive(i.org(), i.key("key"), i.text("label_text"), i.bytes("ctx"))
		return k.Expose(), nil
	},
	"record_extension_key": func(i inputs) ([]byte, error) {
		k := seal.ExtensionKey(i.org(), i.key("record_key"), i.id("record_uid"))
		return k.Expose(), nil
	},
	"record_key_check": func(i inputs) ([]byte, error) {
		return seal.RecordKeyCheck(i.org(), i.key("record_key"), i.id("record_uid")).Bytes(), nil
	},
	"folder_check": func(i inputs) ([]byte, error) {
		v, err := strconv.ParseUint(i.text("version_text"), 10, 32)
		return seal.FolderCheck(i.org(), i.key("folder_key"), i.id("folder_uid"), uint32(v)).Bytes(), err
	},
	"app_check": func(i inputs) ([]byte, error) {
		return seal.AppCheck(i.org(), i.key("app_key"), i.id("entry_id")).Bytes(), nil
	},
	"enrol_sign_public_key": func(i inputs) ([]byte, error) {
		return seal.EnrolSignKey(i.key("seed")).Public().(ed25519.PublicKey), nil
	},
	"enrol_blob_key": func(i inputs) ([]byte, error) {
		k := seal.EnrolBlobKey(i.key("seed"))
		return k.Expose(), nil
	},
	"agent_client_id": func(i inputs) ([]byte, error) {
		id := seal.AgentClientID(i.org(), i.id("entry_id"))
		return id[:], nil
	},
	"token_client_id": func(i inputs) ([]byte, error) {
		id := seal.TokenClientID(i.key("token"))
		return id[:], nil
	},
	"message_digest": func(i inputs) ([]byte, error) {
		return seal.MessageDigest(seal.Kind(i.text("kind_text")), i.org(), i.bytes("body")).Bytes(), nil
	},
	"sign": func(i inputs) ([]byte, error) {
		key := ed25519.NewKeyFromSeed(i.bytes("seed"))
		return seal.Sign(key, seal.Kind(i.text("kind_text")), i.org(), i.bytes("body")), nil
	},
	"verify": func(i inputs) ([]byte, error) {
		if !seal.Verify(i.bytes("public_key"), seal.Kind(i.text("kind_text")), i.org(), i.bytes("body"), i.bytes("sig")) {
			return nil, errRefused
		}
		return []byte{1}, nil
	},
	"sign_release": func(i inputs) ([]byte, error) {
		return seal.SignRelease(ed25519.NewKeyFromSeed(i.bytes("seed")), i.bytes("body")), nil
	},
	"verify_release": func(i inputs) ([]byte, error) {
		if !seal.VerifyRelease(i.bytes("public_key"), i.bytes("body"), i.bytes("sig")) {
			return nil, errRefused
		}
		return []byte{1}, nil
	},
	"key_id": func(i inputs) ([]byte, error) {
		return seal.KeyID(seal.Algorithm(i.bytes("algorithm")[0]), i.bytes("public_key")).Bytes(), nil
	},
	"hpke_public_key_sha256": func(i inputs) ([]byte, error) {
		k, err := seal.SealKeyFrom(i.bytes("private_key"))
		if err != nil {
			return nil, err
		}
		return seal.Hash(k.Public()).Bytes(), nil
	},
	"hpke_info": func(i inputs) ([]byte, error) { return i.route().Info(), nil },
	"hpke_open": func(i inputs) ([]byte, error) {
		k, err := seal.SealKeyFrom(i.bytes("private_key"))
		if err != nil {
			return nil, err
		}
		return seal.OpenFrom(k, i.route(), i.bytes("box"))
	},
	"gcm_open": func(i inputs) ([]byte, error) { return seal.OpenGCM(i.key("key"), i.bytes("box"), i.bytes("ad")) },
	"cbc_open": func(i inputs) ([]byte, error) { return seal.OpenCBC(i.key("key"), i.bytes("box")) },
	"ext_open": func(i inputs) ([]byte, error) {
		return seal.OpenExt(i.org(), i.key("record_key"), i.id("record_uid"), seal.ExtKind(i.text("kind_text")), i.bytes("box"))
	},
	"enrol_blob_open": func(i inputs) ([]byte, error) {
		return seal.OpenEnrolBlob(i.org(), i.key("seed"), i.id("entry_id"), i.bytes("box"))
	},
	"ecies_open": func(i inputs) ([]byte, error) {
		k, err := seal.ParseDeviceKey(i.bytes("private_key_pkcs8"))
		if err != nil {
			return nil, err
		}
		return seal.OpenECIES(k, i.bytes("box"))
	},
	"channel_input": func(i inputs) ([]byte, error) {
		return seal.ChannelInput(i.org(), [64]byte(i.bytes("client_id")), i.text("host_text"), [32]byte(i.bytes("challenge")), [32]byte(i.bytes("exporter"))), nil
	},
	"session_input": func(i inputs) ([]byte, error) {
		return seal.SessionInput(i.org(), i.id("entry_id"), i.text("host_text"), [32]byte(i.bytes("challenge")), [32]byte(i.bytes("exporter"))), nil
	},
	"unlock": func(i inputs) ([]byte, error) {
		return seal.Unlock([]byte(i.text("passphrase_text")), i.text("purpose_text"), i.bytes("file"))
	},
}

func (i inputs) route() seal.Route {
	return seal.Route{Purpose: seal.Purpose(i.text("purpose_text")), Org: i.org(), From: i.id("from"), To: i.id("to"), Object: i.id("object")}
}

// The fixed values of the vectors.
var (
	org    = seal.Digest(fill(1, 32))
	record = seal.ID(fill(2, 16))
	recKey = keyOf(fill(3, 32))
	seed   = fill(4, 32)
	hpkeSK = fill(7, 32)
	entry  = seal.ID(fill(8, 16))
	agent  = seal.ID(fill(9, 16))
	folder = seal.ID(fill(10, 16))
)

func keyOf(b []byte) seal.Key {
	k, err := seal.KeyFrom(b)
	if err != nil {
		panic(err)
	}
	return k
}

func fill(b byte, n int) []byte { return bytes.Repeat([]byte{b}, n) }
func hx(b []byte) string        { return hex.EncodeToString(b) }

// makeVectors writes the inputs; their outputs are computed by the operations.
func makeVectors(t *testing.T) map[string][]vector {
	cryptotest.SetGlobalRandom(t, 1)
	must := func(b []byte, err error) []byte {
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	in := func(kv ...string) map[string]string {
		m := map[string]string{"org_id": hx(org[:])}
		for n := 0; n < len(kv); n += 2 {
			m[kv[n]] = kv[n+1]
		}
		return m
	}
	with := func(m map[string]string, k, v string) map[string]string {
		c := map[string]string{}
		for a, b := range m {
			c[a] = b
		}
		c[k] = v
		return c
	}
	flip := func(h string) string {
		b, _ := hex.DecodeString(h)
		b[len(b)-1] ^= 1
		return hx(b)
	}
	out := map[string][]vector{}
	add := func(file, name, op string, in map[string]string) {
		out[file] = append(out[file], vector{Name: name, Op: op, In: in})
	}
	refuse := func(file, name, op string, in map[string]string) {
		out[file] = append(out[file], vector{Name: name, Op: op, In: in, Refuse: true})
	}

	add("derive", "X", "derive", in("key", hx(recKey.Expose()), "label_text", "rotunda/v1/example", "ctx", hx(record[:])))
	add("derive", "record extension key", "record_extension_key", in("record_key", hx(recKey.Expose()), "record_uid", hx(record[:])))
	add("derive", "record key check", "record_key_check", in("record_key", hx(recKey.Expose()), "record_uid", hx(record[:])))
	add("derive", "folder check, version 1", "folder_check", in("folder_key", hx(fill(5, 32)), "folder_uid", hx(folder[:]), "version_text", "1"))
	add("derive", "folder check, version 258", "folder_check", in("folder_key", hx(fill(5, 32)), "folder_uid", hx(folder[:]), "version_text", "258"))
	add("derive", "app check", "app_check", in("app_key", hx(fill(6, 32)), "entry_id", hx(entry[:])))
	add("derive", "enrolment sign key", "enrol_sign_public_key", in("seed", hx(seed)))
	add("derive", "enrolment blob key", "enrol_blob_key", in("seed", hx(seed)))
	add("derive", "agent's client id", "agent_client_id", in("entry_id", hx(agent[:])))

	add("derive", "one-time token's client id", "token_client_id", in("token", hx(seed)))

	pub := ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey)
	for _, kind := range []seal.Kind{seal.KindLog, seal.KindStatement, seal.KindCommand, seal.KindResult} {
		m := in("kind_text", string(kind), "body", hx([]byte("abc")), "seed", hx(seed))
		add("sign", "digest of a "+string(kind), "message_digest", m)
		add("sign", "signature of a "+string(kind), "sign", m)
	}
	zero := with(in("kind_text", "log", "body", hx([]byte("abc")), "seed", hx(seed)), "org_id", hx(make([]byte, 32)))
	add("sign", "digest of change 0: zero org_id", "message_digest", zero)
	add("sign", "signature of change 0: zero org_id", "sign", zero)
	add("sign", "key id, Ed25519", "key_id", in("algorithm", "01", "public_key", hx(pub)))
	add("sign", "key id, HPKE", "key_id", in("algorithm", "02", "public_key", hx(fill(11, seal.SealPubSize))))
	add("sign", "key id, P-256", "key_id", in("algorithm", "03", "public_key", hx(fill(12, 65))))
	good := in("kind_text", "command", "body", hx([]byte("abc")), "public_key", hx(pub),
		"sig", hx(seal.Sign(ed25519.NewKeyFromSeed(seed), seal.KindCommand, org, []byte("abc"))))
	add("sign", "a good signature", "verify", good)
	refuse("sign", "another kind", "verify", with(good, "kind_text", "statement"))
	refuse("sign", "another organisation", "verify", with(good, "org_id", hx(fill(2, 32))))
	refuse("sign", "another body", "verify", with(good, "body", hx([]byte("abd"))))
	refuse("sign", "a short signature", "verify", with(good, "sig", good["sig"][:126]))
	refuse("sign", "a short public key", "verify", with(good, "public_key", good["public_key"][:62]))
	for _, y := range smallOrderEncodings() {
		// The signature that anybody can write: R the neutral element, S zero.
		forged := append([]byte{1}, make([]byte, 63)...)
		refuse("sign", "small-order public key", "verify", with(with(good, "public_key", hx(y[:])), "sig", hx(forged)))
	}

	key, body := ed25519.NewKeyFromSeed(seed), []byte(`{"name":"acme"}`)
	add("sign", "signature of a plugin's release", "sign_release", map[string]string{"seed": hx(seed), "body": hx(body)})
	published := map[string]string{"public_key": hx(pub), "body": hx(body), "sig": hx(seal.SignRelease(key, body))}
	add("sign", "a release's good signature", "verify_release", published)
	refuse("sign", "a release, another body", "verify_release", with(published, "body", hx([]byte(`{"name":"acne"}`))))
	refuse("sign", "a release, the same body under another label", "verify_release",
		with(published, "sig", hx(ed25519.Sign(key, slices.Concat([]byte("rotunda/v1/log\x00"), body)))))
	refuse("sign", "a release, the same body under no label", "verify_release", with(published, "sig", hx(ed25519.Sign(key, body))))

	gcm := in("key", hx(recKey.Expose()), "box", hx(seal.SealGCM(recKey, []byte(`{"type":"login"}`), nil)), "ad", "")
	add("aead", "record data, no additional data", "gcm_open", gcm)
	refuse("aead", "record data, altered", "gcm_open", with(gcm, "box", flip(gcm["box"])))
	refuse("aead", "record data, other key", "gcm_open", with(gcm, "key", hx(seed)))
	refuse("aead", "record data, too short", "gcm_open", with(gcm, "box", gcm["box"][:20]))
	add("aead", "wrapped key", "gcm_open", in("key", hx(recKey.Expose()), "box", hx(seal.WrapKey(recKey, keyOf(seed))), "ad", ""))
	cbc := in("key", hx(recKey.Expose()), "box", hx(seal.SealCBC(recKey, seed)))
	add("aead", "sub-folder key, CBC", "cbc_open", cbc)
	add("aead", "folder name, CBC", "cbc_open", in("key", hx(recKey.Expose()), "box", hx(seal.SealCBC(recKey, []byte(`{"name":"F"}`)))))
	refuse("aead", "CBC, bad padding", "cbc_open", with(cbc, "box", flip(cbc["box"])))
	refuse("aead", "CBC, no whole block", "cbc_open", with(cbc, "box", cbc["box"][:62]))
	refuse("aead", "CBC, iv only", "cbc_open", with(cbc, "box", cbc["box"][:32]))
	for _, kind := range []seal.ExtKind{seal.ExtStatement, seal.ExtDetail, seal.ExtAuthority} {
		m := in("record_key", hx(recKey.Expose()), "record_uid", hx(record[:]), "kind_text", string(kind), "box", hx(seal.SealExt(org, recKey, record, kind, []byte("blob"))))
		add("aead", "extension blob: "+string(kind), "ext_open", m)
		refuse("aead", "extension blob of another record", "ext_open", with(m, "record_uid", hx(entry[:])))
		refuse("aead", "extension blob of another kind", "ext_open", with(m, "kind_text", "other"))
		refuse("aead", "extension blob of another organisation", "ext_open", with(m, "org_id", hx(fill(2, 32))))
	}
	blob := in("seed", hx(seed), "entry_id", hx(entry[:]), "box", hx(seal.SealEnrolBlob(org, keyOf(seed), entry, []byte("blob"))))
	add("aead", "enrolment blob", "enrol_blob_open", blob)
	refuse("aead", "enrolment blob of another entry", "enrol_blob_open", with(blob, "entry_id", hx(agent[:])))

	sk, err := seal.SealKeyFrom(hpkeSK)
	if err != nil {
		t.Fatal(err)
	}
	add("hpke", "public key", "hpke_public_key_sha256", in("private_key", hx(hpkeSK)))
	refuse("hpke", "private key of 16 bytes", "hpke_public_key_sha256", in("private_key", hx(hpkeSK[:16])))
	for _, p := range []seal.Purpose{seal.PurposeCommand, seal.PurposeFolder, seal.PurposeReply} {
		r := seal.Route{Purpose: p, Org: org, From: entry, To: agent, Object: record}
		if p == seal.PurposeFolder {
			r.From, r.Object = seal.ID{}, folder
		}
		m := in("purpose_text", string(p), "from", hx(r.From[:]), "to", hx(r.To[:]), "object", hx(r.Object[:]), "private_key", hx(hpkeSK))
		add("hpke", "info: "+string(p), "hpke_info", m)
		m["box"] = hx(must(seal.SealTo(sk.Public(), r, []byte("sealed"))))
		add("hpke", "open: "+string(p), "hpke_open", m)
		refuse("hpke", "another sender", "hpke_open", with(m, "from", hx(fill(13, 16))))
		refuse("hpke", "another recipient", "hpke_open", with(m, "to", hx(fill(13, 16))))
		refuse("hpke", "another object", "hpke_open", with(m, "object", hx(fill(13, 16))))
		refuse("hpke", "another organisation", "hpke_open", with(m, "org_id", hx(fill(13, 32))))
		refuse("hpke", "another purpose", "hpke_open", with(m, "purpose_text", "other"))
		refuse("hpke", "another key", "hpke_open", with(m, "private_key", hx(fill(13, 32))))
		refuse("hpke", "altered", "hpke_open", with(m, "box", flip(m["box"])))
		refuse("hpke", "too short", "hpke_open", with(m, "box", m["box"][:200]))
	}

	dev, err := seal.GenerateDeviceKey()
	if err != nil {
		t.Fatal(err)
	}
	der, point := must(seal.MarshalDeviceKey(dev)), must(seal.DevicePub(dev))
	ec := in("private_key_pkcs8", hx(der), "box", hx(must(seal.SealECIES(point, seed))))
	add("ecies", "sealed key", "ecies_open", ec)
	refuse("ecies", "altered", "ecies_open", with(ec, "box", flip(ec["box"])))
	refuse("ecies", "too short", "ecies_open", with(ec, "box", ec["box"][:100]))
	refuse("ecies", "a point that is not on the curve", "ecies_open", with(ec, "box", "04"+hx(fill(1, 124))))

	id := seal.AgentClientID(org, agent)
	add("signin", "agent channel", "channel_input", in("client_id", hx(id[:]), "host_text", "vault.example.org", "challenge", hx(fill(14, 32)), "exporter", hx(fill(15, 32))))
	add("signin", "agent channel, host in capitals", "channel_input", in("client_id", hx(id[:]), "host_text", "Vault.Example.ORG", "challenge", hx(fill(14, 32)), "exporter", hx(fill(15, 32))))
	add("signin", "client session", "session_input", in("entry_id", hx(entry[:]), "host_text", "vault.example.org", "challenge", hx(fill(14, 32)), "exporter", hx(fill(15, 32))))

	locked := in("passphrase_text", "correct horse", "purpose_text", seal.LockedDeviceStore, "file", hx(seal.Lock([]byte("correct horse"), seal.LockedDeviceStore, []byte("store"))))
	add("locked", "device store", "unlock", locked)
	refuse("locked", "wrong passphrase", "unlock", with(locked, "passphrase_text", "correct house"))
	refuse("locked", "another purpose", "unlock", with(locked, "purpose_text", "agent-keys"))
	refuse("locked", "altered", "unlock", with(locked, "file", flip(locked["file"])))
	refuse("locked", "not a locked file", "unlock", with(locked, "file", "00"+locked["file"]))
	return out
}

// TestVectors runs every published vector. With -update it first writes them.
func TestVectors(t *testing.T) {
	if *update {
		for file, vs := range makeVectors(t) {
			for n, v := range vs {
				got, err := ops[v.Op](inputs{t, v.In})
				if v.Refuse != (err != nil) {
					t.Fatalf("%s, %s: refuse is %v, got %v", file, v.Name, v.Refuse, err)
				}
				vs[n].Out = hx(got)
			}
			b, err := json.MarshalIndent(vs, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(vectorDir, file+".json"), append(b, '\n'), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	ran := map[string]bool{}
	for _, file := range []string{"derive", "sign", "aead", "hpke", "ecies", "signin", "locked"} {
		b, err := os.ReadFile(filepath.Join(vectorDir, file+".json"))
		if err != nil {
			t.Fatal(err)
		}
		var vs []vector
		if err := json.Unmarshal(b, &vs); err != nil {
			t.Fatal(err)
		}
		for _, v := range vs {
			t.Run(file+"/"+v.Name, func(t *testing.T) {
				op, ok := ops[v.Op]
				if !ok {
					t.Fatalf("no operation %q", v.Op)
				}
				ran[v.Op] = true
				got, err := op(inputs{t, v.In})
				if v.Refuse {
					if err == nil {
						t.Fatalf("not refused: %x", got)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if hx(got) != v.Out {
					t.Errorf("got %x, want %s", got, v.Out)
				}
			})
		}
	}
	for op := range ops {
		if !ran[op] {
			t.Errorf("no vector runs %s", op)
		}
	}
}

// TestFirstVectors holds the figures of the design, made by two implementations.
func TestFirstVectors(t *testing.T) {
	if got := seal.RecordKeyCheck(org, recKey, record).String(); got != "7814384a157cba85db14e4554c1ec09bcb1256bcc7042dde9dbef74b05267ad7" {
		t.Errorf("key check %s", got)
	}
	if got := seal.MessageDigest(seal.KindCommand, org, []byte("abc")).String(); got != "870255708514e5e6c7c588e40691c4fab9a66286ab6c27b50e2ea692470e952e" {
		t.Errorf("digest %s", got)
	}
	id := seal.KeyID(seal.AlgEd25519, ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey))
	if got := hx(id[:]); got != "7627e3f52803cd8ce45bd45826abe8b8" {
		t.Errorf("key id %s", got)
	}
	k, err := seal.SealKeyFrom(hpkeSK)
	if err != nil {
		t.Fatal(err)
	}
	if got := seal.Hash(k.Public()).String(); got != "74943b4ecd441ec7f92d22c3fb377a29cd7fb96687efda8fae74ae2219a1c279" {
		t.Errorf("hpke public key %s", got)
	}
}

// smallOrderEncodings lists each small-order y in both signs.
func smallOrderEncodings() [][32]byte {
	var out [][32]byte
	for _, h := range []string{
		"0000000000000000000000000000000000000000000000000000000000000000",
		"0100000000000000000000000000000000000000000000000000000000000000",
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
		"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	} {
		b, _ := hex.DecodeString(h)
		for _, sign := range []byte{0, 0x80} {
			y := [32]byte(slices.Clone(b))
			y[31] |= sign
			out = append(out, y)
		}
	}
	return out
}
