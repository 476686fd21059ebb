package mutant_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"fulcrum/mutant"
)

// A mutant that no code asks for would count as killed by nothing, and one that is not
// listed is never run.
func TestListIsWhatTheCodeAsksFor(t *testing.T) {
	asked := asked(t)
	listed := map[string]bool{}
	for _, m := range mutant.List() {
		if listed[m.Name] {
			t.Errorf("%s is listed twice", m.Name)
		}
		listed[m.Name] = true
		if _, ok := asked[m.Name]; !ok {
			t.Errorf("%s is listed, and no code asks for it", m.Name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(asked)) {
		if !listed[name] {
			t.Errorf("%s asks for %q, which is not listed", asked[name], name)
		}
	}
}

// Whoever breaks the store must say how it is found out.
func TestEveryMutantSaysWhatKillsIt(t *testing.T) {
	for _, m := range mutant.List() {
		if m.Breaks == "" {
			t.Errorf("%s does not say what it breaks", m.Name)
		}
		run := m.Mode != "" && m.Write != "" && m.Read != "" && m.Workload != "" && m.Nemesis != ""
		if !m.Harness && !run && m.Test == "" {
			t.Errorf("%s names neither a run nor a test that should find it", m.Name)
		}
		if pkg, test, ok := strings.Cut(m.Test, " "); m.Test != "" && (!ok || !declares(t, pkg, test)) {
			t.Errorf("%s: there is no test %q", m.Name, m.Test)
		}
	}
}

func TestANormalBuildIsWhole(t *testing.T) {
	if mutant.Enabled {
		t.Skip("this is a build of mutants")
	}
	for _, m := range mutant.List() {
		mutant.Set(m.Name)
		if mutant.On(m.Name) {
			t.Errorf("%s can be chosen in a normal build", m.Name)
		}
	}
}

// root is the module's folder.
const root = ".."

// asked returns what the code asks for with On("name"), and one file that does.
func asked(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != root && strings.HasPrefix(d.Name(), "."):
			return fs.SkipDir
		case !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok && isOn(call.Fun) {
				found[argument(t, path, call)] = path
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func isOn(f ast.Expr) bool {
	sel, ok := f.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	pkg, ok := sel.X.(*ast.Ident)
	return ok && pkg.Name == "mutant" && sel.Sel.Name == "On"
}

// argument is the name asked for, which must be a literal: else this test sees nothing.
func argument(t *testing.T, path string, call *ast.CallExpr) string {
	t.Helper()
	if len(call.Args) == 1 {
		if lit, ok := call.Args[0].(*ast.BasicLit); ok && lit.Kind == token.STRING {
			if name, err := strconv.Unquote(lit.Value); err == nil {
				return name
			}
		}
	}
	t.Errorf("%s: On wants the name itself, no expression", path)
	return ""
}

// declares reports whether a package has a test of that name.
func declares(t *testing.T, pkg, test string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, filepath.FromSlash(pkg), "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == test {
				return true
			}
		}
	}
	return false
}
