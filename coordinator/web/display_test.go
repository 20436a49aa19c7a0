package web

import (
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestNoTextIsMarkedSafe keeps the escaping whole: neither the package's code nor its templates may go around html/template, and no page
// may hold script or style that the content security policy would have to allow.
func TestNoTextIsMarkedSafe(t *testing.T) {
	marks := regexp.MustCompile(`template\.(HTML|HTMLAttr|JS|JSStr|CSS|URL|Srcset)\b|text/template`)
	sources, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range sources {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if m := marks.Find(b); m != nil {
			t.Errorf("%s uses %s", name, m)
		}
	}
	active := regexp.MustCompile(`(?i)<script|<style|\sstyle=|\son[a-z]+=|javascript:|<iframe|<object|https?://`)
	err = fs.WalkDir(templateFiles, "templates", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := templateFiles.ReadFile(path)
		if m := active.Find(b); m != nil {
			t.Errorf("%s holds %s", path, m)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestEveryInputHasALabel and a fault that is tied to it.
func TestEveryInputHasALabel(t *testing.T) {
	input := regexp.MustCompile(`(?s)<(?:input|select)\b[^>]*?>`)
	id := regexp.MustCompile(`\bid="([a-z]+)"`)
	names, err := fs.Glob(templateFiles, "templates/*.html")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		b, err := templateFiles.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, in := range input.FindAllString(string(b), -1) {
			if strings.Contains(in, `type="hidden"`) || strings.Contains(in, `type="checkbox"`) {
				continue
			}
			m := id.FindStringSubmatch(in)
			if m == nil || !strings.Contains(string(b), `<label for="`+m[1]+`">`) {
				t.Errorf("%s: no label for %s", name, in)
				continue
			}
			if !strings.Contains(in, m[1]+"-fault") || !strings.Contains(string(b), `id="`+m[1]+`-fault"`) {
				t.Errorf("%s: the fault of %s is not tied to it", name, m[1])
			}
		}
	}
}

func TestTimesInWords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		for ago, want := range map[time.Duration]string{
			0: "just now", -time.Minute: "just now", 5 * time.Second: "5 seconds ago", 119 * time.Second: "119 seconds ago", 2 * time.Minute: "2 minutes ago",
			119 * time.Minute: "119 minutes ago", 47 * time.Hour: "47 hours ago", 50 * time.Hour: "2 days ago",
		} {
			if got := since(now.Add(-ago)); got != want {
				t.Errorf("%s ago: %q, want %q", ago, got, want)
			}
		}
		for in, want := range map[time.Duration]string{-time.Second: "over", 0: "over", time.Second: "in 1 second", 9 * time.Minute: "in 9 minutes", 720 * time.Hour: "in 30 days"} {
			if got := until(now.Add(in)); got != want {
				t.Errorf("in %s: %q, want %q", in, got, want)
			}
		}
	})
	if since(time.Time{}) != "never" || until(time.Time{}) != "never" || stamp(time.Time{}) != "never" {
		t.Error("the zero time is not never")
	}
}

func TestStyleSheetMayBeKept(t *testing.T) {
	w := newWorld(t)
	p := w.person()
	m := regexp.MustCompile(`/static/picket\.css\?v=[0-9a-f]{12}`).FindString(p.get("/login").body)
	a := p.get(m)
	a.want(t, http.StatusOK, "color-scheme")
	if a.header.Get("Content-Type") != "text/css; charset=utf-8" || a.header.Get("Cache-Control") != "public, max-age=31536000, immutable" {
		t.Errorf("headers %v", a.header)
	}
	if a := p.get("/static/icon.svg"); a.header.Get("Content-Type") != "image/svg+xml" || a.header.Get("Cache-Control") != "no-store" {
		t.Errorf("headers %v", a.header)
	}
}
