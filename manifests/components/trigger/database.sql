-- The trigger service's role and database: made, or found as they are. The role gets the password of the secret anew each
-- time, so that a changed one holds from the next start on.
\getenv password TRIGGER_PASSWORD
-- One pod at a time.
SELECT pg_advisory_lock(hashtext('shipway_trigger')) \g /dev/null
SELECT 'CREATE ROLE shipway_trigger LOGIN'
  WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'shipway_trigger') \gexec
ALTER ROLE shipway_trigger PASSWORD :'password';
SELECT 'CREATE DATABASE shipway_trigger OWNER shipway_trigger'
  WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'shipway_trigger') \gexec
REVOKE ALL ON DATABASE shipway_trigger FROM PUBLIC;
-- Nor may this role, or any other to come, look into the database that this script is connected to.
REVOKE ALL ON DATABASE :"DBNAME" FROM PUBLIC;
