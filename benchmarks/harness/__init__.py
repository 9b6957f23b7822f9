"""What every benchmark needs: copies of repositories, a server, the machine, percentiles."""
