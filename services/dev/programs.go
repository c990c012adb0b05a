package dev

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/pg"
)

// programFile returns the file name of a program of ours.
func programFile(program string) string {
	word, _, _ := strings.Cut(program, " ") // "node 1" runs kmip-node
	return "kmip-" + word
}

// makeSealingKey makes the operator's secret that seals tenants' API keys, once.
func (s *stack) makeSealingKey() error {
	_, err := onlyOnce(s.folder.path(sealingKeys), func() ([]byte, error) {
		key := make([]byte, 32)
		rand.Read(key) // never fails (Go 1.24)
		return []byte(base64.StdEncoding.EncodeToString(key) + "\n"), nil
	})
	return err
}

// startAll starts the programs, each when those that it needs are ready.
func (s *stack) startAll(ctx context.Context) error {
	began := time.Now()
	if err := s.startDatabase(ctx); err != nil {
		return err
	}
	s.row(programPostgres, "ready and migrated in "+seconds(time.Since(began)))
	for _, p := range []struct {
		name  string
		admin int
		args  []string
		env   []string
	}{
		{name: programEmulator, admin: s.ports.emulatorAdmin, args: s.emulatorArgs()},
		{name: programControl, admin: s.ports.apiAdmin, env: s.controlEnv()},
		{name: programNode1, admin: s.ports.nodeAdmin[0], env: s.nodeEnv(0)},
		{name: programNode2, admin: s.ports.nodeAdmin[1], env: s.nodeEnv(1)},
	} {
		began := time.Now()
		log := s.folder.log(p.name)
		if err := rotate(log); err != nil {
			return err
		}
		c := command{path: filepath.Join(s.Programs, programFile(p.name)), args: p.args, env: p.env, log: log}
		if err := s.supervisor.add(ctx, program{
			name: p.name, log: log, start: c.start, ready: probe(baseURL(p.admin) + "/readyz"),
		}); err != nil {
			return err
		}
		s.row(p.name, "ready in "+seconds(time.Since(began)))
	}
	return nil
}

// rotate keeps the log of the run before this one, and no older.
func rotate(log string) error {
	err := os.Rename(log, log+".before")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// startDatabase starts PostgreSQL, migrates as the owner and lets the services in.
func (s *stack) startDatabase(ctx context.Context) error {
	err := s.supervisor.add(ctx, program{
		name:  programPostgres,
		start: s.postgres.start,
		ready: func(context.Context) error { return nil }, // start waits for it
	})
	if err != nil {
		return err
	}
	cluster := s.postgres.latest()
	if err := cluster.EnsureDatabase(ctx, database, ownerRole); err != nil {
		return fmt.Errorf("making the database: %w", err)
	}
	if err := pg.Migrate(ctx, s.postgres.url(ownerRole)); err != nil {
		return fmt.Errorf("migrating the database: %w", err)
	}
	for _, role := range []string{controlRole, nodeRole} {
		if err := cluster.EnsureRole(ctx, role); err != nil {
			return fmt.Errorf("giving %s its password: %w", role, err)
		}
	}
	return nil
}

func (s *stack) emulatorArgs() []string {
	return []string{
		"--data-dir", s.folder.path(emulatorDir),
		"--seed", s.folder.path(seedFile),
		"--iam-addr", address(s.ports.iam),
		"--resource-controller-addr", address(s.ports.controller),
		"--key-protect-addr", address(s.ports.keyProtect),
		"--hpcs-addr", address(s.ports.hpcs),
		"--admin-addr", address(s.ports.emulatorAdmin),
	}
}

func (s *stack) controlEnv() []string {
	env := s.sharedEnv(controlRole)
	if s.CheckInterval > 0 {
		env = append(env, "KMIP_CHECK_INTERVAL="+s.CheckInterval.String())
	}
	return append(env,
		"KMIP_RESOURCE_CONTROLLER_URL="+baseURL(s.ports.controller),
		"KMIP_API_ADDRESS="+address(s.ports.api),
		"KMIP_ADMIN_ADDRESS="+address(s.ports.apiAdmin),
		fmt.Sprintf("KMIP_SHARED_ENDPOINTS=%s:%d,%s:%d", sharedNames[0], s.ports.node[0], sharedNames[1], s.ports.node[1]),
		fmt.Sprintf("KMIP_DEDICATED_ENDPOINTS=%s:%d-%d", dedicatedDomain, s.ports.dedicated, s.ports.dedicated+dedicatedPorts-1),
		"KMIP_CA_FILE="+s.server.ca,
		"KMIP_CA_KEY_FILE="+s.server.caKey,
		"KMIP_TLS_CERTIFICATE_FILE="+s.server.chain,
	)
}

func (s *stack) nodeEnv(node int) []string {
	return append(s.sharedEnv(nodeRole),
		fmt.Sprintf("KMIP_NODE_NAME=node-%d", node+1),
		"KMIP_LISTEN="+address(s.ports.node[node]),
		fmt.Sprintf("KMIP_ADVERTISED_PORT=%d", s.ports.node[node]),
		fmt.Sprintf("KMIP_DEDICATED_PORT_OFFSET=%d", node*dedicatedPorts),
		fmt.Sprintf("KMIP_STATE_FOLDER=%s-%d", s.folder.path(nodeDir), node+1),
		"KMIP_ADMIN_ADDRESS="+address(s.ports.nodeAdmin[node]),
		"KMIP_TLS_CERTIFICATE_FILE="+s.server.chain,
		"KMIP_TLS_KEY_FILE="+s.server.key,
	)
}

// sharedEnv is what control plane and nodes are told alike.
func (s *stack) sharedEnv(role string) []string {
	return []string{
		"DATABASE_URL=" + s.postgres.url(role),
		"KMIP_REGION=" + region,
		"KMIP_IAM_URL=" + baseURL(s.ports.iam),
		fmt.Sprintf("KMIP_KEY_MANAGER_ENDPOINTS=kms/%s=%s,hs-crypto/%s=%s", region, baseURL(s.ports.keyProtect), region, baseURL(s.ports.hpcs)),
		"KMIP_SEALING_KEYS_FILE=" + s.folder.path(sealingKeys),
		"KMIP_SERVICE_API_KEY_FILE=" + s.folder.path(serviceKey),
	}
}
