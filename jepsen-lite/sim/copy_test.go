package sim

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

func TestACopiedFileHasTheSameBytes(t *testing.T) {
	dir := t.TempDir()
	for name, data := range map[string][]byte{
		"empty":         nil,
		"short":         []byte("x"),
		"one block":     bytes.Repeat([]byte{7}, 64<<10),
		"zeros within":  append(append(bytes.Repeat([]byte{1}, 64<<10), make([]byte, 200<<10)...), 2),
		"zeros at last": append([]byte{1}, make([]byte, 300<<10)...),
		"zeros alone":   make([]byte, 100<<10),
	} {
		from, to := filepath.Join(dir, name), filepath.Join(dir, name+".copy")
		if err := os.WriteFile(from, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := copyFile(to, from); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(to); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: %d bytes were copied as %d others (%v)", name, len(data), len(got), err)
		}
	}
}
