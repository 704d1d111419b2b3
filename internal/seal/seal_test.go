package seal_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/rotunda-pam/rotunda/internal/seal"
)

// Every encoding in the table is a point of small order by the curve's own
// arithmetic, and the standard library accepts a signature for some of them that
// nobody's private key made: that is why the table is there.
func TestSmallOrderTable(t *testing.T) {
	p := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	mod := func(x *big.Int) *big.Int { return x.Mod(x, p) }
	mul := func(a, b *big.Int) *big.Int { return mod(new(big.Int).Mul(a, b)) }
	inv := func(a *big.Int) *big.Int { return new(big.Int).ModInverse(a, p) }
	one := big.NewInt(1)
	d := mul(mod(big.NewInt(-121665)), inv(big.NewInt(121666)))
	fooled := 0
	for _, enc := range smallOrderEncodings() {
		if err := seal.CheckSignPub(enc[:]); !errors.Is(err, seal.ErrSignPub) {
			t.Errorf("%x is accepted", enc)
		}
		le := slices.Clone(enc[:])
		le[31] &= 0x7f
		slices.Reverse(le)
		y := mod(new(big.Int).SetBytes(le))
		yy := mul(y, y)
		x := new(big.Int).ModSqrt(mul(mod(new(big.Int).Sub(yy, one)), inv(mod(new(big.Int).Add(mul(d, yy), one)))), p)
		if x == nil {
			t.Errorf("%x is not on the curve", enc)
			continue
		}
		for range 3 {
			// x' = 2xy/(1+dx²y²), y' = (y²+x²)/(1−dx²y²)
			xy, xx, yy := mul(x, y), mul(x, x), mul(y, y)
			dxxyy := mul(d, mul(xx, yy))
			x = mul(mod(new(big.Int).Lsh(xy, 1)), inv(mod(new(big.Int).Add(one, dxxyy))))
			y = mul(mod(new(big.Int).Add(yy, xx)), inv(mod(new(big.Int).Sub(one, dxxyy))))
		}
		if x.Sign() != 0 || y.Cmp(one) != 0 {
			t.Errorf("%x is not of small order", enc)
		}
		forged := append([]byte{1}, make([]byte, 63)...)
		for n := range 64 {
			body := []byte{byte(n)}
			if ed25519.Verify(enc[:], seal.SigInput(seal.KindCommand, org, body), forged) {
				fooled++
			}
			if seal.Verify(enc[:], seal.KindCommand, org, body, forged) {
				t.Errorf("a forged signature verifies under %x", enc)
			}
		}
	}
	if fooled == 0 {
		t.Error("the standard library refuses these by itself now: the table may go")
	}
	if err := seal.CheckSignPub(ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey)); err != nil {
		t.Errorf("an honest key: %v", err)
	}
}

func TestNoFormatterPrintsAKey(t *testing.T) {
	k := keyOf(bytes.Repeat([]byte("K"), 32))
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "key", k, "nested", struct{ K seal.Key }{k})
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "key", k, "nested", struct{ K *seal.Key }{&k})
	j, err := json.Marshal(map[string]any{"k": k, "p": &k, "s": []seal.Key{k}})
	if err != nil {
		t.Fatal(err)
	}
	all := log.String() + string(j) + fmt.Sprintf("%v %+v %#v %s %x %d %q %v %+v", k, k, k, k, k, k, k, &k, struct{ K seal.Key }{k})
	type private struct { // fields that fmt may not call Format on
		k seal.Key
		p *seal.Key
		m map[string]seal.Key
		s []seal.Key
	}
	p := private{k, &k, map[string]seal.Key{"k": k}, []seal.Key{k}}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d", "%q"} {
		all += fmt.Sprintf(verb, p) + fmt.Sprintf(verb, &p)
	}
	if err := gob.NewEncoder(io.Discard).Encode(struct{ K seal.Key }{k}); err == nil {
		t.Error("gob encodes a key")
	}
	for _, shape := range []string{"KKKK", "4b4b", "4B4B", "75 75", "75,75", "S0tL"} {
		if strings.Contains(all, shape) {
			t.Errorf("a key is printed (%s): %s", shape, all)
		}
	}
	if !strings.Contains(all, "[key]") {
		t.Errorf("nothing was printed at all: %s", all)
	}
}

func TestWipeErasesEveryCopy(t *testing.T) {
	k := seal.NewKey()
	same, exposed, other := k, k.Expose(), keyOf(k.Expose())
	k.Wipe()
	if !same.Equal(seal.Key{}) || other.Equal(k) || !bytes.Equal(exposed, other.Expose()) {
		t.Errorf("after Wipe a copy is zeros: %t; a key of its own is not: %t", same.Equal(seal.Key{}), !other.Equal(k))
	}
}

func TestTextFormsGoBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := seal.ID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id"))
		if got, err := seal.ParseID(id.String()); err != nil || got != id {
			t.Fatalf("%v %v", got, err)
		}
		d := seal.Digest(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "digest"))
		if got, err := seal.ParseDigest(d.String()); err != nil || got != d {
			t.Fatalf("%v %v", got, err)
		}
		if got := strings.ReplaceAll(d.Fingerprint(), " ", ""); got != d.String() {
			t.Fatalf("fingerprint %s", got)
		}
	})
	// In JSON both are their text.
	type both struct {
		ID     seal.ID
		Digest seal.Digest
	}
	in, out := both{seal.NewID(), seal.Hash(seed)}, both{}
	b, err := json.Marshal(in)
	if err != nil || !strings.Contains(string(b), in.ID.String()) || !strings.Contains(string(b), in.Digest.String()) {
		t.Errorf("%s, %v", b, err)
	}
	if err := json.Unmarshal(b, &out); err != nil || out != in {
		t.Errorf("%+v, %v", out, err)
	}
	for _, bad := range []string{"", "AAAA", "AAAAAAAAAAAAAAAAAAAAAB", "AAAAAAAAAAAAAAAAAAAAAA=="} {
		if _, err := seal.ParseID(bad); err == nil {
			t.Errorf("%q is taken for an id", bad)
		}
	}
}

func TestIDsBeginWithNoDash(t *testing.T) {
	for range 2000 {
		if strings.HasPrefix(seal.NewID().String(), "-") {
			t.Fatal("an id's text begins with a dash")
		}
	}
}

func TestSizes(t *testing.T) {
	if n := len(seal.WrapKey(recKey, recKey)); n != 60 {
		t.Errorf("wrapped key of %d bytes, want 60", n)
	}
	if n := len(seal.SealCBC(recKey, recKey.Expose())); n != 64 {
		t.Errorf("CBC-wrapped key of %d bytes, want 64", n)
	}
	k, err := seal.GenerateSealKey()
	if err != nil {
		t.Fatal(err)
	}
	box, err := seal.SealTo(k.Public(), seal.Route{}, []byte("x"))
	if err != nil || len(box) != 1+seal.SealOverhead || len(k.Public()) != seal.SealPubSize {
		t.Errorf("HPKE: %d bytes under a key of %d, %v", len(box), len(k.Public()), err)
	}
	raw, err := k.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	again, err := seal.SealKeyFrom(raw)
	if err != nil || !bytes.Equal(again.Public(), k.Public()) {
		t.Errorf("a stored seal key comes back as another: %v", err)
	}
	dev, err := seal.GenerateDeviceKey()
	if err != nil {
		t.Fatal(err)
	}
	der, err := seal.MarshalDeviceKey(dev)
	if err != nil || len(der) != 138 {
		t.Errorf("device key of %d bytes, want 138: %v", len(der), err)
	}
	pub, err := seal.DevicePub(dev)
	if err != nil {
		t.Fatal(err)
	}
	box, err = seal.SealECIES(pub, recKey.Expose())
	if err != nil || len(box) != 125 {
		t.Errorf("ECIES-sealed key of %d bytes, want 125: %v", len(box), err)
	}
	parsed, err := seal.ParseDevicePub(pub)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := seal.SignP256(dev, []byte("input"))
	if err != nil || !seal.VerifyP256(parsed, []byte("input"), sig) || seal.VerifyP256(parsed, []byte("other"), sig) {
		t.Errorf("P-256 signature: %v", err)
	}
}

func TestUnlockErrors(t *testing.T) {
	box := seal.Lock([]byte("right"), seal.LockedDeviceStore, []byte("content"))
	if _, err := seal.Unlock([]byte("wrong"), seal.LockedDeviceStore, box); !errors.Is(err, seal.ErrPassphrase) {
		t.Errorf("wrong passphrase: %v", err)
	}
	if _, err := seal.Unlock([]byte("right"), seal.LockedDeviceStore, []byte("content")); !errors.Is(err, seal.ErrNotLocked) {
		t.Errorf("not a locked file: %v", err)
	}
	if got, err := seal.Unlock([]byte("right"), seal.LockedDeviceStore, box); err != nil || string(got) != "content" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestWrappedKeys(t *testing.T) {
	k, err := seal.KeyFrom(seed)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := seal.UnwrapKey(recKey, seal.WrapKey(recKey, k)); err != nil || !got.Equal(k) {
		t.Errorf("wrapped key: %v", err)
	}
	if _, err := seal.UnwrapKey(k, seal.WrapKey(recKey, k)); !errors.Is(err, seal.ErrOpen) {
		t.Errorf("wrapped key under another: %v", err)
	}
	if _, err := seal.UnwrapKey(recKey, seal.SealGCM(recKey, k.Expose()[:31], nil)); !errors.Is(err, seal.ErrOpen) {
		t.Errorf("wrapped key of 31 bytes: %v", err)
	}
}

// FuzzOpen feeds outside bytes to everything that opens. The fuzzer has no key: what is
// authenticated opens only where it is what the test sealed, and keys that are read are
// written the same.
func FuzzOpen(f *testing.F) {
	sk, err := seal.SealKeyFrom(hpkeSK)
	if err != nil {
		f.Fatal(err)
	}
	dev, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), bytes.Repeat([]byte{7}, 32))
	if err != nil {
		f.Fatal(err)
	}
	point, err := seal.DevicePub(dev)
	if err != nil {
		f.Fatal(err)
	}
	ecies, err := seal.SealECIES(point, []byte("mine"))
	if err != nil {
		f.Fatal(err)
	}
	hpke, err := seal.SealTo(sk.Public(), seal.Route{}, []byte("mine"))
	if err != nil {
		f.Fatal(err)
	}
	der, err := seal.MarshalDeviceKey(dev)
	if err != nil {
		f.Fatal(err)
	}
	wrapping, err := seal.KeyFrom(bytes.Repeat([]byte{8}, seal.KeySize))
	if err != nil {
		f.Fatal(err)
	}
	mine := ed25519.NewKeyFromSeed(make([]byte, 32))
	sig := seal.Sign(mine, seal.KindLog, org, []byte("mine"))
	for which, box := range [][]byte{seal.SealGCM(recKey, []byte("mine"), nil), seal.SealCBC(recKey, []byte("mine")), hpke, ecies, seal.WrapKey(wrapping, recKey), sig} {
		f.Add(box, byte(which))
		f.Add(box[:len(box)-1], byte(which))
	}
	f.Add([]byte{}, byte(0))
	f.Add(der, byte(6))
	f.Add(point, byte(7))
	f.Add([]byte("rotunda-locked-1\n"), byte(8))
	f.Add(bytes.Repeat([]byte{4}, 200), byte(3))
	f.Fuzz(func(t *testing.T, b []byte, which byte) {
		opened := func(out []byte, err error) {
			t.Helper()
			if err == nil && string(out) != "mine" {
				t.Fatalf("opened %q, which nobody sealed", out)
			}
		}
		switch which % 9 {
		case 0:
			opened(seal.OpenGCM(recKey, b, nil))
		case 1: // not authenticated: the records' format has it so for folders
			if out, err := seal.OpenCBC(recKey, b); err == nil && len(out) >= len(b) {
				t.Fatalf("%d bytes from %d", len(out), len(b))
			}
		case 2:
			opened(seal.OpenFrom(sk, seal.Route{}, b))
		case 3:
			opened(seal.OpenECIES(dev, b))
		case 4:
			if k, err := seal.UnwrapKey(wrapping, b); err == nil && !k.Equal(recKey) {
				t.Fatal("unwrapped a key that nobody wrapped")
			}
			if box, err := seal.SealTo(b, seal.Route{}, []byte("x")); err == nil && len(b) != seal.SealPubSize || err == nil && len(box) == 0 {
				t.Fatalf("sealed to a key of %d bytes", len(b))
			}
		case 5:
			if seal.Verify(mine.Public().(ed25519.PublicKey), seal.KindLog, org, []byte("mine"), b) && !bytes.Equal(b, sig) {
				t.Fatalf("a second signature of the same: %x", b)
			}
			if seal.Verify(b, seal.KindLog, org, nil, b) {
				t.Fatalf("%x is its own signature", b)
			}
		case 6:
			if k, err := seal.ParseDeviceKey(b); err == nil {
				if again, err := seal.MarshalDeviceKey(k); err != nil {
					t.Fatal(err)
				} else if k2, err := seal.ParseDeviceKey(again); err != nil || !k2.Equal(k) {
					t.Fatalf("the key comes back changed: %v", err)
				}
			}
		case 7:
			if k, err := seal.ParseDevicePub(b); err == nil {
				if again, err := k.Bytes(); err != nil || !bytes.Equal(again, b) {
					t.Fatalf("%x comes back as %x", b, again)
				}
			}
		case 8:
			if len(b) > len("rotunda-locked-1\n")+16 && seal.IsLocked(b) {
				t.Skip("to try a passphrase takes its time")
			}
			if _, err := seal.Unlock([]byte("x"), "test", b); !errors.Is(err, seal.ErrNotLocked) && !errors.Is(err, seal.ErrPassphrase) {
				t.Fatalf("unlocked: %v", err)
			}
		}
	})
}
