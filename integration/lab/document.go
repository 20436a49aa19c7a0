//go:build linux

package lab

import (
	"fmt"
	"strings"

	"golang.org/x/net/html"
	"golang.org/x/net/html/atom"
)

// document is what matters of an HTML page.
type document struct {
	title    string
	text     string            // of the main part, spaces folded
	byID     map[string]string // text of elements with an id
	recovery []string          // elements of class "recovery" that are code
	forms    []form
}

// form is one form: where it is posted, where its second button posts it instead, and its fields with the values they start with.
type form struct {
	action string
	deny   string
	fields map[string]string
}

// form returns the form of main whose action, or second button, ends with suffix; the first one for "".
func (d document) form(suffix string) (form, bool) {
	for _, f := range d.forms {
		if strings.HasSuffix(f.action, suffix) || (f.deny != "" && strings.HasSuffix(f.deny, suffix)) {
			return f, true
		}
	}
	return form{}, false
}

func parseDocument(text string) (document, error) {
	root, err := html.Parse(strings.NewReader(text))
	if err != nil {
		return document{}, fmt.Errorf("read the page: %w", err)
	}
	d := document{byID: map[string]string{}}
	d.walk(root, false)
	return d, nil
}

func (d *document) walk(n *html.Node, inMain bool) {
	if n.Type == html.ElementNode {
		switch n.DataAtom {
		case atom.Title:
			d.title = folded(n)
		case atom.Main:
			inMain = true
			d.text = folded(n)
		case atom.Form:
			if inMain {
				d.forms = append(d.forms, readForm(n))
			}
		case atom.Code:
			if attr(n, "class") == "recovery" {
				d.recovery = append(d.recovery, folded(n))
			}
		}
		if id := attr(n, "id"); id != "" {
			d.byID[id] = folded(n)
		}
	}
	for c := n.FirstChild; c != nil; c = c.NextSibling {
		d.walk(c, inMain)
	}
}

func readForm(n *html.Node) form {
	f := form{action: attr(n, "action"), fields: map[string]string{}}
	for c := range n.Descendants() {
		if c.Type != html.ElementNode {
			continue
		}
		if c.DataAtom == atom.Button {
			f.deny += attr(c, "formaction")
		}
		if name := attr(c, "name"); name != "" {
			f.fields[name] = attr(c, "value")
		}
	}
	return f
}

func attr(n *html.Node, name string) string {
	for _, a := range n.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}

// folded is the text below n with runs of white space as one space.
func folded(n *html.Node) string {
	var b strings.Builder
	for c := range n.Descendants() {
		if c.Type == html.TextNode {
			b.WriteString(c.Data)
			b.WriteByte(' ')
		}
	}
	return strings.Join(strings.Fields(b.String()), " ")
}
