package dev

import (
	"errors"
	"io/fs"
	"os"
	"strconv"
	"sync"
)

// The programs of a stack, as they are printed.
const (
	programPostgres = "PostgreSQL"
	programEmulator = "emulator"
	programControl  = "control plane"
	programNode1    = "node 1"
	programNode2    = "node 2"
)

// environment is stack.env: where everything is, for scripts to source. It
// exists from publish to remove, and follows the process ids meanwhile.
type environment struct {
	path string

	mu     sync.Mutex
	pids   map[string]int // by program
	values []variable     // nil until published
}

func newEnvironment(f folder) *environment {
	return &environment{path: f.path(stackEnv), pids: map[string]int{}}
}

// started notes a program's new process id.
func (e *environment) started(program string, pid int) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.pids[program] = pid
	if e.values == nil {
		return nil
	}
	return e.write()
}

// publish writes the file.
func (e *environment) publish(values []variable) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.values = values
	return e.write()
}

// remove removes the file for good.
func (e *environment) remove() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.values = nil
	if err := os.Remove(e.path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (e *environment) write() error {
	all := e.values[:len(e.values):len(e.values)]
	for _, p := range []variable{
		{"CONTROL_PID", programControl},
		{"NODE1_PID", programNode1},
		{"NODE2_PID", programNode2},
		{"EMULATOR_PID", programEmulator},
		{"POSTGRES_PID", programPostgres},
	} {
		all = append(all, variable{p.name, strconv.Itoa(e.pids[p.value])})
	}
	text, err := encodeEnv(all)
	if err != nil {
		return err
	}
	return writeFile(e.path, text, 0o600)
}

// variables are the lines of stack.env but the process ids.
func (s *stack) variables(tenants [2]*tenantSetup) []variable {
	p, t, second := s.ports, tenants[0], tenants[1]
	return []variable{
		{"API_URL", baseURL(p.api)},
		{"ADMIN_URL", baseURL(p.apiAdmin)},
		{"CONSOLE_URL", ""}, // there is no console yet
		{"IAM_URL", baseURL(p.iam)},
		{"IAM_POLICY_URL", baseURL(p.iam)},
		{"RC_URL", baseURL(p.controller)},
		{"KP_URL", baseURL(p.keyProtect)},
		{"HPCS_URL", baseURL(p.hpcs)},
		{"EMULATOR_ADMIN_URL", baseURL(p.emulatorAdmin)},
		{"DATABASE_URL", s.postgres.url(ownerRole)},
		{"NODE1_ADMIN_URL", baseURL(p.nodeAdmin[0])},
		{"NODE2_ADMIN_URL", baseURL(p.nodeAdmin[1])},
		{"SUPPORT_API_KEY", s.cast.supportAPIKey},
		{"KP_SERVICE_API_KEY", t.serviceKey},

		{"KMIP_HOST", "127.0.0.1"},
		{"KMIP_PORT", strconv.Itoa(p.node[0])},
		{"KMIP_PORT_2", strconv.Itoa(p.node[1])},
		{"KMIP_SNI", sharedNames[0]},
		{"KMIP_CA", s.server.ca},
		{"KMIP_CERT", t.clientFiles.certificate},
		{"KMIP_KEY", t.clientFiles.key},
		{"INSTANCE_ID", t.instance},
		{"ACCOUNT_ID", t.account},
		{"API_KEY", t.apiKey},
		{"KP_INSTANCE_ID", t.keyManager.GUID},
		{"KP_ROOT_KEY_ID", t.rootKey},

		{"KMIP2_HOST", "127.0.0.1"},
		{"KMIP2_PORT", strconv.Itoa(int(second.own.Port))},
		{"KMIP2_PORT_2", strconv.Itoa(int(second.own.Port) + dedicatedPorts)},
		{"KMIP2_SNI", second.own.Hostname},
		{"KMIP2_CA", s.server.ca},
		{"KMIP2_CERT", second.clientFiles.certificate},
		{"KMIP2_KEY", second.clientFiles.key},
		{"INSTANCE2_ID", second.instance},
		{"ACCOUNT2_ID", second.account},
		{"API2_KEY", second.apiKey},
		{"KP2_INSTANCE_ID", second.keyManager.GUID},
		{"KP2_ROOT_KEY_ID", second.rootKey},
	}
}
