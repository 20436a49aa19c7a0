package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"picket.internal/acl"
)

// hostile is a file whose name and messages try to end what they stand in.
var hostile = []checked{{
	path: "a,b:c%\n::error file=x::\x1b[2J<\"&'>.hujson", failed: true,
	text: []byte("{\n /* é😀 */ x"),
	found: []acl.Diagnostic{
		{Severity: acl.SeverityError, Line: 2, Column: 15, Message: "100% wrong\r\n::warning::no \x1b]0;x\a ]]> </failure>", Hint: "a, b: c"},
		{Severity: acl.SeverityError, Message: "and 7 more errors"},
	},
}}

func TestGitHubCommandsStayOnTheirLine(t *testing.T) {
	want := `::error file=a%2Cb%3Ac%25%0A%3A%3Aerror file=x%3A%3A[2J<"&'>.hujson,line=2,col=15::100%25 wrong%0D%0A::warning::no ]0;x ]]> </failure>: a, b: c
::error file=a%2Cb%3Ac%25%0A%3A%3Aerror file=x%3A%3A[2J<"&'>.hujson::and 7 more errors
`
	if diff := cmp.Diff(want, reportOf(t, checkGitHub, hostile)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestJUnitStaysXML(t *testing.T) {
	want := xml.Header + `<testsuites tests="2" failures="2">
  <testsuite name="a,b:c%&#xA;::error file=x::�[2J&lt;&#34;&amp;&#39;&gt;.hujson" tests="2" failures="2">
    <testcase classname="a,b:c%&#xA;::error file=x::�[2J&lt;&#34;&amp;&#39;&gt;.hujson" name="line 2, column 15">
      <failure message="100% wrong&#xD;&#xA;::warning::no �]0;x� ]]&gt; &lt;/failure&gt;: a, b: c" type="error">a,b:c%&#xA;::error file=x::�[2J&lt;&#34;&amp;&#39;&gt;.hujson:2:15: error: 100% wrong::warning::no ]0;x ]]&gt; &lt;/failure&gt;: a, b: c</failure>
    </testcase>
    <testcase classname="a,b:c%&#xA;::error file=x::�[2J&lt;&#34;&amp;&#39;&gt;.hujson" name="the whole file">
      <failure message="and 7 more errors" type="error">a,b:c%&#xA;::error file=x::�[2J&lt;&#34;&amp;&#39;&gt;.hujson: error: and 7 more errors</failure>
    </testcase>
  </testsuite>
</testsuites>
`
	got := reportOf(t, checkJUnit, hostile)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for d := xml.NewDecoder(strings.NewReader(got)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

func TestSARIF(t *testing.T) {
	version, err := json.Marshal(buildVersion())
	if err != nil {
		t.Fatal(err)
	}
	want := `{
  "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
  "version": "2.1.0",
  "runs": [
    {
      "tool": {
        "driver": {
          "name": "picket acl check",
          "version": ` + string(version) + `,
          "rules": [
            {
              "id": "error",
              "shortDescription": {
                "text": "The policy is refused."
              }
            },
            {
              "id": "warning",
              "shortDescription": {
                "text": "Legal, but probably not meant."
              }
            }
          ]
        }
      },
      "columnKind": "utf16CodeUnits",
      "results": [
        {
          "ruleId": "error",
          "ruleIndex": 0,
          "level": "error",
          "message": {
            "text": "100% wrong\r\n::warning::no \u001b]0;x\u0007 ]]> </failure>: a, b: c"
          },
          "locations": [
            {
              "physicalLocation": {
                "artifactLocation": {
                  "uri": "./a,b:c%25%0A::error%20file=x::%1B%5B2J%3C%22&%27%3E.hujson"
                },
                "region": {
                  "startLine": 2,
                  "startColumn": 12
                }
              }
            }
          ]
        },
        {
          "ruleId": "error",
          "ruleIndex": 0,
          "level": "error",
          "message": {
            "text": "and 7 more errors"
          },
          "locations": [
            {
              "physicalLocation": {
                "artifactLocation": {
                  "uri": "./a,b:c%25%0A::error%20file=x::%1B%5B2J%3C%22&%27%3E.hujson"
                }
              }
            }
          ]
        },
        {
          "ruleId": "warning",
          "ruleIndex": 1,
          "level": "warning",
          "message": {
            "text": "odd"
          },
          "locations": [
            {
              "physicalLocation": {
                "artifactLocation": {
                  "uri": "stdin"
                },
                "region": {
                  "startLine": 1,
                  "startColumn": 1
                }
              }
            }
          ]
        }
      ]
    }
  ]
}
`
	odd := checked{path: "-", text: []byte("{}"), found: []acl.Diagnostic{{Severity: acl.SeverityWarning, Line: 1, Column: 1, Message: "odd"}}}
	if diff := cmp.Diff(want, reportOf(t, checkSARIF, append(hostile[:1:1], odd))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestFileURI(t *testing.T) {
	for path, want := range map[string]string{
		"-": "stdin", "policy.hujson": "policy.hujson", "a/b c.hujson": "a/b%20c.hujson", "/etc/p#1?.hujson": "file:///etc/p%231%3F.hujson",
		"a:b": "./a:b", "../p": "../p",
	} {
		if got := fileURI(path); got != want {
			t.Errorf("fileURI(%q) = %q, want %q", path, got, want)
		}
	}
}

func TestTextOfHostileNames(t *testing.T) {
	got := reportOf(t, checkText, hostile)
	if strings.ContainsAny(got, "\x1b\r\a") || strings.Count(got, "\n") != 3 {
		t.Errorf("text acts on a terminal, or breaks its lines: %q", got)
	}
}

func reportOf(t *testing.T, write func(io.Writer, []checked) error, files []checked) string {
	t.Helper()
	var b bytes.Buffer
	if err := write(&b, files); err != nil {
		t.Fatal(err)
	}
	return b.String()
}
