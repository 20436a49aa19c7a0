package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"net/url"
	"strings"
	"unicode"
	"unicode/utf16"

	"picket.internal/acl"
)

// What machines read of `picket acl check`. Names of files and words of a policy may hold anything, so each format escapes them in its own way.

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

func checkJSON(w io.Writer, files []checked) error {
	type file struct {
		File        string           `json:"file"`
		Diagnostics []acl.Diagnostic `json:"diagnostics"`
	}
	out := struct {
		Errors   int    `json:"errors"`
		Warnings int    `json:"warnings"`
		Files    []file `json:"files"`
	}{}
	for _, f := range files {
		errors, warnings := f.count()
		out.Errors += errors
		out.Warnings += warnings
		out.Files = append(out.Files, file{f.path, append([]acl.Diagnostic{}, f.found...)})
	}
	return writeJSON(w, out)
}

// checkGitHub writes workflow commands, which GitHub shows beside the lines that they name
// (https://docs.github.com/actions/reference/workflows-and-actions/workflow-commands). A value that could end its command or property is
// escaped as in @actions/toolkit, core/src/command.ts; other control characters are taken out.
func checkGitHub(w io.Writer, files []checked) error {
	for _, f := range files {
		for _, d := range f.found {
			place := ""
			if f.path != "-" {
				place = " file=" + githubProperty.Replace(shown(f.path))
				if d.Line > 0 {
					place += fmt.Sprintf(",line=%d,col=%d", d.Line, d.Column)
				}
			}
			fmt.Fprintf(w, "::%s%s::%s\n", d.Severity, place, githubData.Replace(shown(message(d))))
		}
	}
	return nil
}

var (
	githubData     = strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A")
	githubProperty = strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A", ":", "%3A", ",", "%2C")
)

// shown is s without control characters, line breaks apart.
func shown(s string) string {
	return strings.Map(func(r rune) rune {
		if r != '\r' && r != '\n' && !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s)
}

// checkJUnit writes a test case for each file and mistake: JUnit's form has no other place for several failures of one file.
func checkJUnit(w io.Writer, files []checked) error {
	var suites []junitSuite
	for _, f := range files {
		s := junitSuite{Name: f.path}
		for _, d := range f.found {
			one := junitCase{Class: f.path, Name: fmt.Sprintf("line %d, column %d", d.Line, d.Column)}
			if d.Line == 0 {
				one.Name = "the whole file"
			}
			if f.failed {
				one.Failure = &junitFailure{Message: message(d), Type: string(d.Severity), Text: diagnosticText(f.path, d)}
			} else {
				one.Output = diagnosticText(f.path, d)
			}
			s.add(one)
		}
		if len(f.found) == 0 {
			s.add(junitCase{Class: f.path, Name: "no errors"})
		}
		suites = append(suites, s)
	}
	return writeJUnit(w, suites)
}

// JUnit's form, as far as its readers agree: https://github.com/testmoapp/junitxml.
type (
	junitSuite struct {
		Name     string      `xml:"name,attr"`
		Tests    int         `xml:"tests,attr"`
		Failures int         `xml:"failures,attr"`
		Cases    []junitCase `xml:"testcase"`
	}
	junitCase struct {
		Class   string        `xml:"classname,attr"`
		Name    string        `xml:"name,attr"`
		Failure *junitFailure `xml:"failure"`
		Output  string        `xml:"system-out,omitempty"`
	}
	junitFailure struct {
		Message string `xml:"message,attr"`
		Type    string `xml:"type,attr"`
		Text    string `xml:",chardata"`
	}
)

func (s *junitSuite) add(c junitCase) {
	s.Tests++
	if c.Failure != nil {
		s.Failures++
	}
	s.Cases = append(s.Cases, c)
}

// writeJUnit writes suites; encoding/xml turns what XML cannot hold into U+FFFD.
func writeJUnit(w io.Writer, suites []junitSuite) error {
	all := struct {
		XMLName  xml.Name     `xml:"testsuites"`
		Tests    int          `xml:"tests,attr"`
		Failures int          `xml:"failures,attr"`
		Suites   []junitSuite `xml:"testsuite"`
	}{Suites: suites}
	for _, s := range suites {
		all.Tests += s.Tests
		all.Failures += s.Failures
	}
	b, err := xml.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s%s\n", xml.Header, b)
	return err
}

// The part of SARIF 2.1.0 that is written (https://docs.oasis-open.org/sarif/sarif/v2.1.0/).
type (
	sarifLog struct {
		Schema  string     `json:"$schema"`
		Version string     `json:"version"`
		Runs    []sarifRun `json:"runs"`
	}
	sarifRun struct {
		Tool       sarifTool     `json:"tool"`
		ColumnKind string        `json:"columnKind"`
		Results    []sarifResult `json:"results"`
	}
	sarifTool struct {
		Driver sarifDriver `json:"driver"`
	}
	sarifDriver struct {
		Name    string      `json:"name"`
		Version string      `json:"version,omitempty"`
		Rules   []sarifRule `json:"rules"`
	}
	sarifRule struct {
		ID    string    `json:"id"`
		Short sarifText `json:"shortDescription"`
	}
	sarifText struct {
		Text string `json:"text"`
	}
	sarifResult struct {
		RuleID    string          `json:"ruleId"`
		RuleIndex int             `json:"ruleIndex"`
		Level     string          `json:"level"`
		Message   sarifText       `json:"message"`
		Locations []sarifLocation `json:"locations"`
	}
	sarifLocation struct {
		Physical sarifPhysical `json:"physicalLocation"`
	}
	sarifPhysical struct {
		Artifact sarifArtifact `json:"artifactLocation"`
		Region   *sarifRegion  `json:"region,omitempty"`
	}
	sarifArtifact struct {
		URI string `json:"uri"`
	}
	sarifRegion struct {
		StartLine   int `json:"startLine"`
		StartColumn int `json:"startColumn"`
	}
)

// sarifRules are what results are filed under, by severity.
var sarifRules = []sarifRule{
	{string(acl.SeverityError), sarifText{"The policy is refused."}},
	{string(acl.SeverityWarning), sarifText{"Legal, but probably not meant."}},
}

func checkSARIF(w io.Writer, files []checked) error {
	run := sarifRun{
		Tool:       sarifTool{sarifDriver{"picket acl check", buildVersion(), sarifRules}},
		ColumnKind: "utf16CodeUnits",
		Results:    []sarifResult{},
	}
	for _, f := range files {
		for _, d := range f.found {
			r := sarifResult{RuleID: string(d.Severity), Level: string(d.Severity), Message: sarifText{message(d)}}
			if d.Severity == acl.SeverityWarning {
				r.RuleIndex = 1
			}
			place := sarifPhysical{Artifact: sarifArtifact{fileURI(f.path)}}
			if d.Line > 0 {
				place.Region = &sarifRegion{d.Line, utf16Column(f.text, d.Line, d.Column)}
			}
			r.Locations = []sarifLocation{{place}}
			run.Results = append(run.Results, r)
		}
	}
	return writeJSON(w, sarifLog{"https://json.schemastore.org/sarif-2.1.0.json", "2.1.0", []sarifRun{run}})
}

// fileURI is a path as a reference (RFC 3986): "./" keeps a colon in the first part from being read as a scheme's end.
func fileURI(path string) string {
	switch {
	case path == "-":
		return "stdin"
	case strings.HasPrefix(path, "/"):
		return (&url.URL{Scheme: "file", Path: path}).String()
	}
	return (&url.URL{Path: path}).String()
}

// utf16Column turns a column in bytes into one in UTF-16 code units.
func utf16Column(text []byte, line, column int) int {
	for ; line > 1; line-- {
		_, text, _ = bytes.Cut(text, []byte("\n"))
	}
	before := string(text[:min(column-1, len(text))])
	return len(utf16.Encode([]rune(before))) + 1
}
