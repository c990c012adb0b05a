package dev

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"time"
)

// The base ports that leave room for a hundred ports above them and below the
// highest one, and none that need root.
const (
	minBasePort = 1024
	maxBasePort = 65435
)

// ports are the ports of one stack, all on 127.0.0.1 and within a hundred of
// the base. Instances' own KMIP ports lie from dedicated on, as advertised and
// on node 1, and dedicatedPorts higher on node 2. The rest is kept free.
type ports struct {
	node             [2]int // KMIP
	dedicated        int
	nodeAdmin        [2]int
	api, apiAdmin    int
	postgres         int
	iam, controller  int // IAM and policy management are one host; resource controller
	keyProtect, hpcs int
	emulatorAdmin    int
}

// dedicatedPorts is how many instances can have a port of their own.
const dedicatedPorts = 30

// portsFrom lays the ports out from a base.
func portsFrom(base int) (ports, error) {
	if base < minBasePort || base > maxBasePort {
		return ports{}, fmt.Errorf("BASE_PORT is %d: choose one from %d to %d", base, minBasePort, maxBasePort)
	}
	return ports{
		node:          [2]int{base, base + 1},
		api:           base + 2,
		apiAdmin:      base + 3,
		nodeAdmin:     [2]int{base + 5, base + 6},
		postgres:      base + 7,
		iam:           base + 10,
		controller:    base + 11,
		keyProtect:    base + 12,
		hpcs:          base + 13,
		emulatorAdmin: base + 14,
		dedicated:     base + 30,
	}, nil
}

// listened are the ports that the stack listens on, and who does.
func (p ports) listened() map[int]string {
	return map[int]string{
		p.node[0]: "node 1", p.node[1]: "node 2", p.nodeAdmin[0]: "node 1's health", p.nodeAdmin[1]: "node 2's health",
		p.api: "the API", p.apiAdmin: "the admin API", p.postgres: "PostgreSQL",
		p.iam: "IAM", p.controller: "the resource controller", p.keyProtect: "Key Protect",
		p.hpcs: "Hyper Protect Crypto Services", p.emulatorAdmin: "the emulator's health",
		p.dedicated: "tenant 2 on node 1", p.dedicated + dedicatedPorts: "tenant 2 on node 2",
	}
}

// checkFree returns an error that names a busy port. It waits up to patience
// for it: the programs of a killed stack take a moment to end.
func (p ports) checkFree(ctx context.Context, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := p.busy(context.WithoutCancel(ctx))
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (p ports) busy(ctx context.Context) error {
	listened := p.listened()
	for _, port := range slices.Sorted(maps.Keys(listened)) {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address(port))
		if err != nil {
			return fmt.Errorf("port %d, for %s, can't be had (%w): stop the program that holds it, or move the whole stack with BASE_PORT=<another port>",
				port, listened[port], errors.Unwrap(err))
		}
		if err := l.Close(); err != nil {
			return err
		}
	}
	return nil
}

// address is where a port is listened on and dialled.
func address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// baseURL is the address of an HTTP service, without a slash at the end.
func baseURL(port int) string { return "http://" + address(port) }
