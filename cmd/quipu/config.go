package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/quipudb/quipu/api/auth"
	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/promql/ruler"
)

// configFile is what --config.file says, a field for each section. A section belongs to
// its package, and its Validate begins with the name of the field that is wrong.
type configFile struct {
	// Defaults are settings of tenants that do not say.
	Defaults tenant.Defaults `yaml:"defaults"`
	// Plans are settings that tenants share by naming one.
	Plans tenant.Plans `yaml:"plans"`
	// Tenants are settings that no tenant's own change.
	Tenants tenant.Overrides `yaml:"tenants"`
	// Auth says whose tokens are taken, and what API keys may use.
	Auth auth.Config `yaml:"auth"`
	// CreateTenants says what makes a tenant: its first event, or an administrator.
	CreateTenants createTenants `yaml:"create_tenants"`
	// Rules are how recording and alerting rules are evaluated.
	Rules ruler.Config `yaml:"rules"`
	// Alerting is where alerts are sent.
	Alerting ruler.Alerting `yaml:"alerting"`
}

// section is one field of the file.
type section struct {
	name string
	Validator
}

// Validator is a section of the configuration. An error begins with the name of the
// field inside the section that is wrong.
type Validator interface{ Validate() error }

func (c *configFile) sections() []section {
	return []section{
		{"defaults", c.Defaults},
		{"plans", c.Plans},
		{"tenants", c.Tenants},
		{"auth", c.Auth},
		{"create_tenants", c.CreateTenants},
		{"rules", c.Rules},
		{"alerting", c.Alerting},
	}
}

// Ways in which a tenant comes to be.
const (
	createOnFirstEvent createTenants = "on_first_event"
	createByAdmin      createTenants = "by_admin"
)

type createTenants string

// Validate says what there is to choose from.
func (c createTenants) Validate() error {
	switch c {
	case "", createOnFirstEvent, createByAdmin:
		return nil
	}
	return fmt.Errorf("is %q, it must be %s or %s", string(c), createOnFirstEvent, createByAdmin)
}

// loadConfig reads a file and checks every section. An error names the file, and the
// line where there is one.
func loadConfig(path string) (*configFile, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	return parseConfig(path, text)
}

func parseConfig(path string, text []byte) (*configFile, error) {
	c := &configFile{}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	if err := dec.Decode(c); err != nil && !errors.Is(err, io.EOF) { // EOF: nothing but comments
		return nil, &configError{path: path, message: yamlMessage(err)}
	}
	if err := dec.Decode(&struct{}{}); !errors.Is(err, io.EOF) {
		return nil, &configError{path: path, message: "there is more than one document in it"}
	}
	for _, s := range c.sections() {
		if err := s.Validate(); err != nil {
			between := "."
			if s.name == "create_tenants" {
				between = " "
			}
			return nil, newConfigError(path, text, s.name+between+err.Error())
		}
	}
	return c, nil
}

// configError says what is wrong with a configuration, and where.
type configError struct {
	path    string
	line    int // 0: the message says it, or it is not known
	message string
}

func (e *configError) Error() string {
	if e.line == 0 {
		return fmt.Sprintf("%s: %s", e.path, e.message)
	}
	return fmt.Sprintf("%s:%d: %s", e.path, e.line, e.message)
}

// newConfigError finds the line of the field that a message begins with.
func newConfigError(path string, text []byte, message string) *configError {
	e := &configError{path: path, message: message}
	var doc yaml.Node
	if yaml.Unmarshal(text, &doc) == nil && len(doc.Content) > 0 {
		field, _, _ := strings.Cut(message, " ")
		e.line = lineOf(doc.Content[0], strings.TrimSuffix(field, ":"))
	}
	return e
}

// lineOf is the line of a field, or of the closest that it is inside of: 0 where there is
// none. Names of tenants may have dots in them, so the longest that fits is taken.
func lineOf(n *yaml.Node, field string) int {
	if n.Kind != yaml.MappingNode {
		return 0
	}
	line, longest := 0, -1
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, value := n.Content[i], n.Content[i+1]
		rest, ok := strings.CutPrefix(field, name.Value)
		if !ok || rest != "" && rest[0] != '.' && rest[0] != '[' || len(name.Value) <= longest {
			continue
		}
		line, longest = name.Line, len(name.Value)
		if inside := lineOf(value, strings.TrimPrefix(rest, ".")); inside > 0 {
			line = inside
		}
	}
	return line
}

// inType is what the decoder says of our types, which mean nothing to who wrote the file.
var inType = regexp.MustCompile(` (not found )?in type [\w.]+`)

// yamlMessage is what a decoder says of a file, for its author.
func yamlMessage(err error) string {
	var wrong *yaml.TypeError
	if errors.As(err, &wrong) {
		lines := make([]string, len(wrong.Errors))
		for i, line := range wrong.Errors {
			lines[i] = inType.ReplaceAllString(line, " is not known")
		}
		return strings.Join(lines, "; ")
	}
	return strings.TrimPrefix(err.Error(), "yaml: ")
}

// configCmd is about the configuration; it needs no server.
type configCmd struct {
	Check configCheckCmd `cmd:"" help:"Say what is wrong with a configuration file."`
}

type configCheckCmd struct {
	serveDefaults `embed:""`

	File string `arg:"" help:"Configuration file, as for --config.file of \"quipu serve\"."`
}

// Run prints a line where the file is right, as the server with the same flags takes it.
func (c *configCheckCmd) Run(con *console) error {
	flags, err := c.settings()
	if err != nil {
		return err
	}
	file, err := loadConfig(c.File)
	if err != nil {
		return err
	}
	if _, err := file.policy(c.File, flags); err != nil {
		return err
	}
	fmt.Fprintf(con.out, "%s: is right: %d plans, %d tenants\n", c.File, len(file.Plans), len(file.Tenants))
	return nil
}

// policy is what flags and file say of tenants.
func (c *configFile) policy(path string, flags tenant.Settings) (*tenant.Policy, error) {
	p, err := tenant.NewPolicy(flags, c.Defaults, c.Plans, c.Tenants)
	if err != nil {
		text, _ := os.ReadFile(path) // only for the line
		return nil, newConfigError(path, text, err.Error())
	}
	p.NoCreate = c.CreateTenants == createByAdmin
	return p, nil
}
