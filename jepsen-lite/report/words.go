package report

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// count is n with a comma before every three digits.
func count(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return count(n) + " " + what + "s"
}

// round keeps three digits of a duration: "1.84ms", "27.3s", "2h55m".
func round(d time.Duration) string {
	for unit := time.Duration(1); d < time.Minute; unit *= 10 {
		if d < 1000*unit {
			return d.Round(unit).String()
		}
	}
	if d < time.Hour {
		s := d.Round(time.Second).String()
		if short, whole := strings.CutSuffix(s, "m0s"); whole {
			return short + "m"
		}
		return s
	}
	return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
}

// fileName makes a name that is safe as one element of a path.
func fileName(s string) string {
	s = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-+", r) {
			return r
		}
		return '-'
	}, s)
	s = strings.TrimLeft(s, ".")
	if s == "" {
		s = "run"
	}
	return s[:min(len(s), 120)]
}

// at is a time of the run, as sentences and tables show it.
func at(d time.Duration) string { return fmt.Sprintf("%.3f s", d.Seconds()) }
