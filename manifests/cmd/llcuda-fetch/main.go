// Llcuda-fetch takes a bare machine to a verified, running llama.cpp on its NVIDIA GPU.
package main

import (
	"os"

	"github.com/waqasm86/llcuda-farm/manifests/fetch/fetchcli"
	_ "github.com/waqasm86/llcuda-farm/manifests/fetch/launch/earlyexec" // starts what run asks for, before main is there
)

func main() { os.Exit(fetchcli.Main(os.Args[1:], newVerifier)) }
