package consistency_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"fulcrum/consistency"
)

var update = flag.Bool("update", false, "rewrite the promise tables of README.md and docs/guarantees.md")

const (
	begin = "<!-- promises: made from consistency.Table() by go test ./consistency -run TestDocs -update -->"
	end   = "<!-- end of promises -->"
)

// TestDocsSayWhatTheTableSays keeps the documents at what the coordinator obeys.
func TestDocsSayWhatTheTableSays(t *testing.T) {
	for name, want := range map[string]string{"../docs/guarantees.md": full(), "../README.md": overview()} {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		before, rest, found := strings.Cut(string(b), begin+"\n")
		old, after, closed := strings.Cut(rest, end)
		if !found || !closed {
			t.Fatalf("%s has no place for the table: want the lines %q and %q", name, begin, end)
		}
		if old == want {
			continue
		}
		if !*update {
			t.Errorf("%s does not say what consistency.Table() says: run go test ./consistency -run TestDocs -update\nhave:\n%s\nwant:\n%s", name, old, want)
			continue
		}
		if err := os.WriteFile(name, []byte(before+begin+"\n"+want+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// full is all of the table: what is offered as tables, what is refused as a list.
func full() string {
	var b strings.Builder
	for _, m := range consistency.Modes {
		fmt.Fprintf(&b, "\n### Mode `%s`\n", m)
		for _, a := range []consistency.Access{consistency.Write, consistency.Read} {
			fmt.Fprintf(&b, "\n| %s at | promise | asked | needed | round trips | minority side | judged by |\n|---|---|---|---|---|---|---|\n", a)
			var refused []string
			for _, p := range consistency.Table() {
				switch {
				case p.Mode != m || p.Access != a:
				case !p.Offered:
					refused = append(refused, fmt.Sprintf("- `%s`: %s.\n", name(p), p.Guarantee))
				default:
					given := ""
					if p.Given != p.Kind {
						given = fmt.Sprintf(" The receipt says `%s`.", p.Given)
					}
					fmt.Fprintf(&b, "| `%s`%s | %s%s | %s | %s | %s | %s | %s |\n", name(p), isDefault(p), p.Guarantee, given, p.Asked, p.Needed, p.RoundTrips, p.Minority, p.Checker)
				}
			}
			if len(refused) > 0 {
				fmt.Fprintf(&b, "\nRefused for a %s:\n\n%s", a, strings.Join(refused, ""))
			}
		}
	}
	b.WriteString("\n")
	return b.String()
}

// overview is, for writes and for reads, a line a level and a column a mode: who must
// answer, and what the minority side of a cut does.
func overview() string {
	var b strings.Builder
	cells := map[string]string{}
	for _, p := range consistency.Table() {
		if p.Offered {
			cells[fmt.Sprint(p.Access, p.Kind, p.Mode)] = fmt.Sprintf("%s%s<br>*%s*", p.Needed, isDefault(p), p.Minority)
		}
	}
	for _, a := range []consistency.Access{consistency.Write, consistency.Read} {
		fmt.Fprintf(&b, "\n| %s at |", a)
		for _, m := range consistency.Modes {
			fmt.Fprintf(&b, " `%s` |", m)
		}
		b.WriteString("\n|---|---|---|---|\n")
		for _, k := range consistency.Kinds() {
			line, offered := "", false
			for _, m := range consistency.Modes {
				cell, ok := cells[fmt.Sprint(a, k, m)]
				if !ok {
					cell = "refused"
				}
				offered = offered || ok
				line += " " + cell + " |"
			}
			if offered {
				fmt.Fprintf(&b, "| `%s` |%s\n", name(consistency.Promise{Kind: k}), line)
			}
		}
	}
	return b.String() + "\n"
}

func name(p consistency.Promise) string {
	if p.Kind == consistency.Bounded {
		return "bounded:DURATION"
	}
	return p.Kind.String()
}

func isDefault(p consistency.Promise) string {
	write, read := consistency.Defaults(p.Mode)
	if p.Access == consistency.Write && p.Kind == write.Kind || p.Access == consistency.Read && p.Kind == read.Kind {
		return " (default)"
	}
	return ""
}
