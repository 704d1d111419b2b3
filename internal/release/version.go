package release

import (
	"cmp"
	"strings"
)

// Compare orders versions as Semantic Versioning does: by their numbers, and what has a
// suffix comes before what has none.
func Compare(a, b string) int {
	an, as, _ := strings.Cut(a, "-")
	bn, bs, _ := strings.Cut(b, "-")
	if c := compareParts(an, bn, "0"); c != 0 {
		return c
	}
	switch {
	case as == bs:
		return 0
	case as == "":
		return 1
	case bs == "":
		return -1
	}
	return compareParts(as, bs, "")
}

func compareParts(a, b, missing string) int {
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	for i := range max(len(as), len(bs)) {
		x, y := missing, missing
		if i < len(as) {
			x = as[i]
		}
		if i < len(bs) {
			y = bs[i]
		}
		if c := comparePart(x, y); c != 0 {
			return c
		}
	}
	return 0
}

// comparePart: numbers by value, however long, before words; nothing before everything.
func comparePart(a, b string) int {
	x, xIs := number(a)
	y, yIs := number(b)
	switch {
	case xIs && yIs:
		return cmp.Or(cmp.Compare(len(x), len(y)), strings.Compare(x, y))
	case a == "" || b == "":
		return cmp.Compare(len(a), len(b))
	case xIs:
		return -1
	case yIs:
		return 1
	}
	return strings.Compare(a, b)
}

// number gives the digits of a number without the zeros that it begins with.
func number(s string) (digits string, is bool) {
	return strings.TrimLeft(s, "0"), s != "" && strings.Trim(s, "0123456789") == ""
}
