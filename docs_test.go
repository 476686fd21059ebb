package fulcrum_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var (
	metricName = regexp.MustCompile(`^fulcrum_[a-z_]+$`)
	codeName   = regexp.MustCompile(`^Code[A-Z]`)
	mdLink     = regexp.MustCompile(`\]\(([^)#: ]+)(?:#[^)]*)?\)`)
)

// TestOperationsNamesEveryMetric compares the metrics that the code makes with those
// that docs/operations.md explains.
func TestOperationsNamesEveryMetric(t *testing.T) {
	text := strings.Join(lines(t, "docs/operations.md"), "\n")
	made := map[string]bool{}
	eachFile(t, func(_ string, f *ast.File) {
		ast.Inspect(f, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				if s, err := strconv.Unquote(lit.Value); err == nil && metricName.MatchString(s) {
					made[s] = true
				}
			}
			return true
		})
	})
	if len(made) < 30 {
		t.Fatalf("only %d names of metrics found in the code: the test looks at the wrong place", len(made))
	}
	told := map[string]bool{}
	for _, m := range regexp.MustCompile("fulcrum_[a-z_]+").FindAllString(text, -1) {
		told[m] = true
	}
	for _, m := range slices.Sorted(maps.Keys(made)) {
		if !told[m] {
			t.Errorf("docs/operations.md does not explain %s", m)
		}
	}
	for _, m := range slices.Sorted(maps.Keys(told)) {
		if !made[m] {
			t.Errorf("docs/operations.md explains %s, which nothing makes", m)
		}
	}
}

func TestOperationsNamesEveryErrorCode(t *testing.T) {
	text := strings.Join(lines(t, "docs/operations.md"), "\n")
	f, err := parser.ParseFile(token.NewFileSet(), "errors.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	ast.Inspect(f, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Values) != 1 || !codeName.MatchString(spec.Names[0].Name) {
			return true
		}
		if lit, ok := spec.Values[0].(*ast.BasicLit); ok {
			found++
			if code, _ := strconv.Unquote(lit.Value); !strings.Contains(text, "\n| `"+code+"` |") {
				t.Errorf("docs/operations.md does not say what to do at %q", code)
			}
		}
		return true
	})
	if found < 10 {
		t.Fatalf("only %d codes found in errors.go", found)
	}
}

// TestLinksLeadSomewhere follows the links among our own documents.
func TestLinksLeadSomewhere(t *testing.T) {
	docs, _ := filepath.Glob("docs/*.md")
	decisions, _ := filepath.Glob("docs/decisions/*.md")
	for _, name := range append(append(docs, decisions...), "README.md", "CHANGELOG.md", "jepsen-lite/README.md") {
		for _, m := range mdLink.FindAllStringSubmatch(strings.Join(lines(t, name), "\n"), -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(name), m[1])); err != nil {
				t.Errorf("%s links to %s: %v", name, m[1], err)
			}
		}
	}
}

// eachFile calls f for each file of this module's packages, tests excepted.
func eachFile(t *testing.T, f func(name string, file *ast.File)) {
	t.Helper()
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			nested, _ := filepath.Glob(filepath.Join(name, "go.mod"))
			if name != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "data" || len(nested) > 0) {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			return err
		}
		f(name, file)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
