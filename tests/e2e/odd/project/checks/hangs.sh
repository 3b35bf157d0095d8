#!/bin/bash
echo "before the hang"
sleep 86304.5
