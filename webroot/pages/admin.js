import { startShell } from "../ui/shell.js"; void startShell("home.title");
