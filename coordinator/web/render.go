package web

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"html/template"
	"io/fs"
	"log/slog"
	"mime"
	"net/http"
	"path"
	"strings"

	"picket.internal/coordinator"
)

//go:embed templates/*.html
var templateFiles embed.FS

//go:embed static
var staticFiles embed.FS

// reply is what a handler answers with: a page, a file, or the way to another page.
type reply struct {
	status   int    // 0: 200
	page     string // name of a template, without .html
	data     any    // for the page
	location string // local path; makes it a 303
	file     *file
}

type file struct {
	contentType string
	bytes       []byte
	lasting     bool // its address changes with its contents
}

func page(name string, data any) reply { return reply{page: name, data: data} }

// formPage is a page whose form must be filled in again.
func formPage(status int, name string, data any) reply {
	return reply{status: status, page: name, data: data}
}

func redirect(path string) reply { return reply{location: path} }

// problemPage is the data of the page "problem".
type problemPage struct{ Heading, Message string }

func problem(status int, heading, message string) reply {
	return reply{status: status, page: "problem", data: problemPage{heading, message}}
}

// view is what every template gets.
type view struct {
	User    *coordinator.User // nil: nobody is signed in
	Admin   bool
	Section string // first part of the path, for the navigation
	Style   string // address of the style sheet
	Data    any
}

// pages is every template, each joined with the layout.
type pages struct {
	byName map[string]*template.Template
	style  string
}

func parsePages() (*pages, error) {
	shared, err := template.New("").Funcs(displayFuncs).ParseFS(templateFiles, "templates/layout.html")
	if err != nil {
		return nil, err
	}
	names, err := fs.Glob(templateFiles, "templates/*.html")
	if err != nil {
		return nil, err
	}
	p := &pages{byName: make(map[string]*template.Template)}
	for _, name := range names {
		if name == "templates/layout.html" {
			continue
		}
		t, err := template.Must(shared.Clone()).ParseFS(templateFiles, name)
		if err != nil {
			return nil, err
		}
		p.byName[strings.TrimSuffix(path.Base(name), ".html")] = t
	}
	css, err := staticFiles.ReadFile("static/picket.css")
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(css)
	p.style = "/static/picket.css?v=" + hex.EncodeToString(sum[:6])
	return p, nil
}

// render writes a page to memory, so that a template's mistake never leaves half a page.
func (p *pages) render(name string, vw view) ([]byte, error) {
	t := p.byName[name]
	if t == nil {
		return nil, fmt.Errorf("render page: no template %q", name)
	}
	vw.Style = p.style
	var b bytes.Buffer
	if err := t.ExecuteTemplate(&b, "layout", vw); err != nil {
		return nil, fmt.Errorf("render page %s: %w", name, err)
	}
	return b.Bytes(), nil
}

// write sends a reply. The headers of guard are set already.
func (s *site) write(w http.ResponseWriter, v *visit, rep reply) {
	h := w.Header()
	switch {
	case rep.location != "":
		h.Set("Cache-Control", "no-store") // the session cookie's writer adds one of its own
		h.Set("Location", rep.location)
		w.WriteHeader(http.StatusSeeOther)
	case rep.file != nil:
		h.Set("Content-Type", rep.file.contentType)
		if rep.file.lasting {
			h.Set("Cache-Control", "public, max-age=31536000, immutable")
		}
		_, _ = w.Write(rep.file.bytes)
	default:
		s.writePage(w, v, rep)
	}
}

func (s *site) writePage(w http.ResponseWriter, v *visit, rep reply) {
	b, err := s.pages.render(rep.page, viewOf(v, rep.data))
	if err != nil {
		rep = s.internal(v, err)
		if b, err = s.pages.render(rep.page, viewOf(v, rep.data)); err != nil {
			b = []byte("Something went wrong on our side.\n")
		}
	}
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Type", "text/html; charset=utf-8")
	if rep.status != 0 {
		w.WriteHeader(rep.status)
	}
	_, _ = w.Write(b)
}

func viewOf(v *visit, data any) view {
	vw := view{Data: data, Admin: v.isAdmin()}
	if v.known() {
		vw.User = &v.user
	}
	vw.Section, _, _ = strings.Cut(strings.TrimPrefix(v.URL.Path, "/"), "/")
	return vw
}

// refuse answers a request that got no further than the guard or the router.
func (s *site) refuse(w http.ResponseWriter, r *http.Request, status int, heading, message string) {
	s.log.Debug("request refused", slog.Int("status", status), slog.String("method", r.Method), slog.String("reason", heading))
	s.writePage(w, &visit{Request: r}, problem(status, heading, message))
}

// static serves the style sheet and the icon.
func (s *site) static(v *visit) (reply, error) {
	name := v.PathValue("file")
	b, err := staticFiles.ReadFile(path.Join("static", path.Base(name)))
	if err != nil {
		return problem(http.StatusNotFound, "There is no such file", "Start from the overview."), nil
	}
	return reply{file: &file{contentType: mime.TypeByExtension(path.Ext(name)), bytes: b, lasting: v.URL.RawQuery != ""}}, nil
}
