// Package password makes candidates: passwords under a policy, and key pairs.
//
// Passwords are drawn from crypto/rand without bias: of all those of its length that a
// policy allows, each is as likely as any other.
package password

import (
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	"math/big"
	"strings"
	"unicode/utf8"

	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// Bounds of a policy. 256 is what every target that we know takes or refuses
// cleanly; below 8 a password is no secret.
const (
	MinLength     = 8
	MaxLength     = 256
	DefaultLength = 32
	// DefaultSymbols leaves out quotes, backslash, backtick, dollar, space and
	// percent: they are allowed by a policy that names them, but break the
	// configuration files of too many programs that use the password.
	DefaultSymbols = "!#*+,-./:;=?@^_~"

	maxPolicyText = 256
)

const (
	lower = "abcdefghijklmnopqrstuvwxyz"
	upper = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	digit = "0123456789"
)

// ErrPolicy says that no password can satisfy a policy, or that the policy is
// too large to be one.
var ErrPolicy = errors.New("password policy")

// class is one set of characters and how many must come from it.
type class struct {
	name    string
	letters []rune
	min     int
}

// Check says whether Generate can serve the policy.
func Check(p *trustv1.PasswordPolicy) error {
	_, _, err := plan(p, "")
	return err
}

// Generate makes a password of exactly the policy's length (DefaultLength when
// it is zero) with at least the asked number of each class, and without the
// characters of forbid, which the target does not take. A nil policy asks for one
// lower, one upper case letter and one digit. Of all such passwords each is equally
// likely.
func Generate(p *trustv1.PasswordPolicy, forbid string) ([]byte, error) {
	classes, length, err := plan(p, forbid)
	if err != nil {
		return nil, err
	}
	out := draw(classes, length)
	pw := make([]byte, 0, length*utf8.UTFMax)
	for _, r := range out {
		pw = utf8.AppendRune(pw, r)
	}
	clear(out)
	return pw, nil
}

func plan(p *trustv1.PasswordPolicy, forbid string) ([]class, int, error) {
	if p == nil {
		p = &trustv1.PasswordPolicy{MinLower: 1, MinUpper: 1, MinDigit: 1}
	}
	if len(p.Symbols) > maxPolicyText || len(p.Exclude) > maxPolicyText {
		return nil, 0, fmt.Errorf("%w: symbols and exclude hold at most %d bytes each", ErrPolicy, maxPolicyText)
	}
	if !utf8.ValidString(p.Symbols) || !utf8.ValidString(p.Exclude) {
		return nil, 0, fmt.Errorf("%w: symbols and exclude must be UTF-8 text", ErrPolicy)
	}
	length := int(p.Length)
	if length == 0 {
		length = DefaultLength
	}
	if length < MinLength || length > MaxLength {
		return nil, 0, fmt.Errorf("%w: length %d, it must lie between %d and %d", ErrPolicy, p.Length, MinLength, MaxLength)
	}
	symbols := p.Symbols
	if symbols == "" && p.MinSymbol > 0 {
		symbols = DefaultSymbols
	}
	var classes []class
	var need uint64
	seen := map[rune]bool{}
	for _, c := range []struct {
		name, letters string
		min           uint32
	}{{"lower", lower, p.MinLower}, {"upper", upper, p.MinUpper}, {"digit", digit, p.MinDigit}, {"symbol", symbols, p.MinSymbol}} {
		need += uint64(c.min)
		var letters []rune
		for _, r := range c.letters {
			// NUL, newline and other control characters end a password early
			// on most targets.
			if r < 0x20 || r == 0x7f || seen[r] || strings.ContainsRune(p.Exclude, r) || strings.ContainsRune(forbid, r) {
				continue
			}
			seen[r] = true
			letters = append(letters, r)
		}
		if len(letters) == 0 {
			if c.min > 0 {
				return nil, 0, fmt.Errorf("%w: %d %s characters are asked for and all are excluded", ErrPolicy, c.min, c.name)
			}
			continue
		}
		classes = append(classes, class{c.name, letters, int(min(c.min, MaxLength+1))})
	}
	if need > uint64(length) {
		return nil, 0, fmt.Errorf("%w: %d characters are asked for by class, the length is %d", ErrPolicy, need, length)
	}
	if len(seen) < 10 {
		return nil, 0, fmt.Errorf("%w: only %d different characters are left, at least 10 are needed", ErrPolicy, len(seen))
	}
	return classes, length, nil
}

// draw gives characters of a password of the classes, which have none in common; each that
// has enough of every class is equally likely. First required characters and then any others
// would not do: what has more than it needs would come more often than it should, or less.
// So the numbers of each class are drawn as often as there are passwords that have them,
// then their places, then the characters.
func draw(classes []class, length int) []rune {
	places := make([]int, 0, length) // by class
	left := ways(classes, length)
	for i, c := range classes {
		rest := length - len(places)
		at, _ := rand.Int(rand.Reader, left[i][rest]) // never fails (crypto/rand, Go 1.24)
		for n, w := range split(c, rest, left[i+1]) {
			if at.Sub(at, w).Sign() < 0 {
				for range n {
					places = append(places, i)
				}
				break
			}
		}
	}
	for i := len(places) - 1; i > 0; i-- { // Fisher-Yates
		j := index(i + 1)
		places[i], places[j] = places[j], places[i]
	}
	out := make([]rune, len(places))
	for i, c := range places {
		letters := classes[c].letters
		out[i] = letters[index(len(letters))]
	}
	clear(places)
	return out
}

// ways says how many strings there are: [i][n] of n characters that are all of the classes
// from i on, with enough of each. What nobody asks for is nil.
func ways(classes []class, length int) [][]*big.Int {
	all := make([][]*big.Int, len(classes)+1)
	for i := range all {
		all[i] = make([]*big.Int, length+1)
	}
	end := all[len(classes)]
	for n := range end {
		end[n] = new(big.Int)
	}
	end[0].SetInt64(1)
	for i := len(classes) - 1; i >= 0; i-- {
		first := 0
		if i == 0 {
			first = length // all characters are there to be had
		}
		for n := first; n <= length; n++ {
			all[i][n] = new(big.Int)
			for _, w := range split(classes[i], n, all[i+1]) {
				all[i][n].Add(all[i][n], w)
			}
		}
	}
	return all
}

// split gives how many strings of n characters there are that have k of the class, enough
// at least, and else what is counted in rest: n over k places, and any of its letters in
// each. The number that it gives is good until the next one.
func split(c class, n int, rest []*big.Int) iter.Seq2[int, *big.Int] {
	return func(yield func(int, *big.Int) bool) {
		placed, w, by := new(big.Int).Binomial(int64(n), int64(c.min)), new(big.Int), new(big.Int)
		placed.Mul(placed, by.Exp(big.NewInt(int64(len(c.letters))), big.NewInt(int64(c.min)), nil))
		for k := c.min; k <= n; k++ {
			if rest[n-k].Sign() > 0 && !yield(k, w.Mul(placed, rest[n-k])) {
				return
			}
			placed.Mul(placed, by.SetInt64(int64(n-k)*int64(len(c.letters))))
			placed.Quo(placed, by.SetInt64(int64(k)+1))
		}
	}
}

// index draws from [0, n) without bias: bytes above the largest multiple of n
// are thrown away. n is at most 4 * maxPolicyText, so two bytes do.
func index(n int) int {
	limit := (1 << 16) / n * n
	var b [2]byte
	for {
		_, _ = rand.Read(b[:]) // never fails (crypto/rand, Go 1.24)
		if v := int(b[0])<<8 | int(b[1]); v < limit {
			return v % n
		}
	}
}
